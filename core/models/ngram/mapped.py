"""N-gram models whose tables are a mapped file, which the processes of a node share."""

from pathlib import Path

from core import errors
from core.config import ngram_settings
from core.models import weights
from core.models.ngram import ngram_model, tables
from core.storage import commit, location, node_cache, verified_files


def load(
    file: location.Location,
    sha256: str,
    config: ngram_settings.NgramConfig,
    vocabulary_size: int,
    cache: node_cache.NodeCache | None,
) -> ngram_model.Ngram:
    """Returns the model of a file of tables; of one in an object store the copy on this node.

    The first process of a node that opens the file verifies it: its hash, and that its tables are those of a model.

    Raises:
        IntegrityError: the file is missing or damaged, or its tables do not fit together.
        StorageError: it cannot be mapped.
    """
    where = str(file)
    verified_as = f"{sha256} {config.order} {config.unit} {vocabulary_size}"

    def map_path(path: Path) -> ngram_model.Ngram:
        is_verified = verified_files.is_verified(path, verified_as)
        # That of a copy was compared when it was made.
        actual = commit.sha256_of_file(file) if file.is_local and not is_verified else sha256
        if actual != sha256:
            raise errors.IntegrityError(
                f"{where}: has the SHA-256 {actual[:16]}… instead of {sha256[:16]}…; restore the file from a copy"
            )
        stored = weights.map_file(path, where)
        if not is_verified:
            tables.check(config, vocabulary_size, stored, where)
            verified_files.set_verified(path, verified_as)
        # A copy may go, while its mapping stays.
        return ngram_model.Ngram(config, vocabulary_size, stored, path if file.is_local else None)

    try:
        if file.is_local:
            return map_path(file.path)
        return (cache or node_cache.NodeCache()).open(file, sha256, file.size_bytes(), map_path)
    except (errors.NotFoundError, FileNotFoundError) as error:
        raise errors.IntegrityError(f"{where}: is missing; restore the bundle from a copy") from error
    except OSError as error:
        raise errors.StorageError(f"{where}: cannot be mapped ({error}); check the file") from error
