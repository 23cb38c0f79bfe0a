"""Path resolution: relative paths in arguments and settings become absolute locations.

It is done once, in the driver: workers have other current folders.
"""

import json
import os
from collections.abc import Iterator

from core import errors
from core.config import schema
from core.data.text import archives
from core.storage import location

HOME = "RAYCURRENT_HOME"
_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the entry point of a submitted job
_SOURCES = ("text", "tsv", "table", "csv", "source", "target")


def locate(text: str, where: str) -> location.Location:
    """Returns the location of a path or URL; a relative path starts from RAYCURRENT_HOME, else from the current folder.

    `where` names the setting or option in errors.

    Raises:
        UsageError: the location is not valid, or it is relative inside a Ray job, whose current folder is a private
            copy that is deleted with the job.
    """
    home = os.environ.get(HOME)
    if home is None and _RAY_JOB in os.environ and _is_relative(text):
        raise errors.UsageError(
            f"{where}: {text!r} is relative, and the current folder of a Ray job is deleted with it; "
            f"use an absolute path or URL, or set {HOME}"
        )
    return location.Location.parse(text, where, home)


def _absolute_url(text: str, where: str) -> str:
    # A member of an archive keeps its name: the archive alone has a location.
    member, url = archives.split(text)
    return archives.join(member, str(locate(url, where)))


def _is_relative(text: str) -> bool:
    return "://" not in text and not text.startswith(("/", "~"))


def is_machine_specific(text: str) -> bool:
    """Returns whether a path depends on the current folder or the home folder (`~`) of the machine that resolves it."""
    return _is_relative(text) or text.startswith("~")


def absolute(config: schema.RunConfig) -> schema.RunConfig:
    """Returns the settings with every location in them absolute.

    Raises:
        UsageError: a location is not valid, or the workers cannot reach it.
    """
    data = config.model_dump(mode="json")
    data["root"] = str(writable(config.root, "root"))
    for name in config.corpora_by_name:
        corpus, section = (data["corpora"][name], f"corpora.{name}") if name else (data["corpus"], "corpus")
        for split in ("train", "valid", "test"):
            source = corpus[split]
            for form in _SOURCES if source else ():
                where = f"{section}.{split}.{form}"
                source[form] = [_absolute_url(text, where) for text in source[form]]
        corpus["sha256"] = {str(locate(text, f"{section}.sha256")): value for text, value in corpus["sha256"].items()}
    data["tokenizer"]["load"] = [str(locate(text, "tokenizer.load")) for text in config.tokenizer.load]
    if config.training.init_from is not None:
        data["training"]["init_from"] = str(locate(config.training.init_from, "training.init_from"))
    for role, text in config.training.embeddings.items():
        data["training"]["embeddings"][role] = str(locate(text, f"training.embeddings.{role}"))
    data["telemetry"] = telemetry(config.telemetry).model_dump(mode="json")
    # Validated anew: a copy with other values would not be.
    resolved = schema.RunConfig.model_validate_json(json.dumps(data))
    # Only the original section records which settings the file sets: `run_state.with_stored_defaults` needs that.
    resolved = resolved.model_copy(update={"generation": config.generation})
    _refuse_private_memory(resolved)
    return resolved


def telemetry(export: schema.TelemetryConfig) -> schema.TelemetryConfig:
    """Returns the settings of telemetry with the path of the credentials absolute: each node opens it.

    Raises:
        UsageError: it is not the path of a file.
    """
    if export.pushgateway_credentials is None:
        return export
    where = "telemetry.pushgateway_credentials"
    path = locate(export.pushgateway_credentials, where)
    if not path.is_local:
        raise errors.UsageError(f"{where}: is opened on each node; name a file there")
    return export.model_copy(update={"pushgateway_credentials": str(path)})


def writable(text: str, where: str) -> location.Location:
    """Returns a location for writing; see `locate`.

    Raises:
        UsageError: it is a web address, which can only be read.
    """
    path = locate(text, where)
    if str(path).startswith(("http://", "https://")):
        raise errors.UsageError(
            f"{where}: {text!r} is a web address, which can only be read; use a folder or an object store"
        )
    return path


def _refuse_private_memory(config: schema.RunConfig) -> None:
    """Refuses `memory://` locations unless all work is done in this process: other processes do not see its memory."""
    if config.cluster.address == "none":
        return
    for where, text in _locations(config):
        if text.startswith("memory://"):
            raise errors.UsageError(
                f"{where}: {text!r} is in the memory of one process; use a folder, or cluster.address: none"
            )


def _locations(config: schema.RunConfig) -> Iterator[tuple[str, str]]:
    yield "root", config.root
    yield from (("tokenizer.load", text) for text in config.tokenizer.load)
    for name, corpus in config.corpora_by_name.items():
        section = f"corpora.{name}" if name else "corpus"
        for split in ("train", "valid", "test"):
            source = getattr(corpus, split)
            for form in _SOURCES if source else ():
                yield from ((f"{section}.{split}.{form}", archives.split(text)[1]) for text in getattr(source, form))
