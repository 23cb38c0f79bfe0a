"""N-gram models whose tables are a mapped file, which the processes of a node share."""

from core import errors
from core.config import ngram_settings
from core.models import weights
from core.models.ngram import ngram_model, tables
from core.storage import commit, location, verified_files


def load(
    file: location.Location, sha256: str, config: ngram_settings.NgramConfig, vocabulary_size: int
) -> ngram_model.Ngram:
    """Returns the model of a file of tables; one in an object store is copied to this machine first.

    The first process of a node that opens the file verifies it: its hash, and that its tables are those of a model.

    Raises:
        IntegrityError: the file is missing or damaged, or its tables do not fit together.
        StorageError: it cannot be mapped.
    """
    where = str(file)
    verified_as = f"{sha256} {config.order} {config.unit} {vocabulary_size}"
    try:
        path = file.path if file.is_local else verified_files.copy(file, sha256, ".safetensors")
        is_verified = verified_files.is_verified(path, verified_as)
        actual = sha256 if is_verified else commit.sha256_of_file(location.Location.parse(str(path)))
        if actual != sha256:
            raise errors.IntegrityError(
                f"{where}: has the SHA-256 {actual[:16]}… instead of {sha256[:16]}…; restore the file from a copy"
            )
        stored = weights.map_file(path, where)
    except (errors.NotFoundError, FileNotFoundError) as error:
        raise errors.IntegrityError(f"{where}: is missing; restore the bundle from a copy") from error
    except OSError as error:
        raise errors.StorageError(f"{where}: cannot be mapped ({error}); check the file") from error
    if not is_verified:
        tables.check(config, vocabulary_size, stored, where)
        verified_files.set_verified(path, verified_as)
    return ngram_model.Ngram(config, vocabulary_size, stored, path)
