"""Where things are: every relative path becomes an absolute location here, once."""

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
    """Returns the location that a path or URL names.

    A relative path is taken from RAYCURRENT_HOME, else from the current folder.

    Raises:
        UsageError: the location is no valid one, or it is relative inside a Ray job, whose current folder is a
            private copy that vanishes.
    """
    home = os.environ.get(HOME)
    if home is None and _RAY_JOB in os.environ and _is_relative(text):
        raise errors.UsageError(
            f"{where}: {text!r} is relative, and the current folder of a Ray job vanishes with it; "
            f"use an absolute path or URL, or set {HOME}"
        )
    return location.Location.parse(text, where, home)


def _located(text: str, where: str) -> str:
    member, place = archives.split(text)
    return archives.join(member, str(locate(place, where)))


def _is_relative(text: str) -> bool:
    return "://" not in text and not text.startswith(("/", "~"))


def is_of_this_machine(text: str) -> bool:
    """Does a path depend on where, and by whom, it is resolved?"""
    return _is_relative(text) or text.startswith("~")


def absolute(config: schema.RunConfig) -> schema.RunConfig:
    """Returns the settings with every location in them absolute.

    Raises:
        UsageError: a location is no valid one, or cannot be reached by the workers.
    """
    data = config.model_dump(mode="json")
    data["root"] = str(writable(config.root, "root"))
    for task in config.tasks:
        corpus, section = (data["corpora"][task], f"corpora.{task}") if task else (data["corpus"], "corpus")
        for name in ("train", "valid", "test"):
            source = corpus[name]
            for form in _SOURCES if source else ():
                where = f"{section}.{name}.{form}"
                source[form] = [_located(text, where) for text in source[form]]
        corpus["sha256"] = {str(locate(text, f"{section}.sha256")): value for text, value in corpus["sha256"].items()}
    data["tokenizer"]["load"] = [str(locate(text, "tokenizer.load")) for text in config.tokenizer.load]
    if config.training.init_from is not None:
        data["training"]["init_from"] = str(locate(config.training.init_from, "training.init_from"))
    for role, text in config.training.embeddings.items():
        data["training"]["embeddings"][role] = str(locate(text, f"training.embeddings.{role}"))
    resolved = schema.RunConfig.model_validate_json(json.dumps(data))
    # It keeps which of its settings the file names: see `run_state.with_stored_defaults`.
    resolved = resolved.model_copy(update={"generation": config.generation})
    _refuse_memory_of_others(resolved)
    return resolved


def writable(text: str, where: str) -> location.Location:
    """Returns the location of something that will be written.

    Raises:
        UsageError: it is a web address, which can only be read.
    """
    place = locate(text, where)
    if str(place).startswith(("http://", "https://")):
        raise errors.UsageError(f"{where}: {text!r} is a web address, which can only be read; use a folder or a store")
    return place


def _refuse_memory_of_others(config: schema.RunConfig) -> None:
    """Workers are other processes: what one holds in memory the others do not see."""
    if config.cluster.address == "none":
        return
    for where, text in _locations(config):
        if text.startswith("memory://"):
            raise errors.UsageError(
                f"{where}: {text!r} lives in the memory of one process; use a folder, or cluster.address: none"
            )


def _locations(config: schema.RunConfig) -> Iterator[tuple[str, str]]:
    yield "root", config.root
    yield from (("tokenizer.load", text) for text in config.tokenizer.load)
    for task, corpus in config.tasks.items():
        section = f"corpora.{task}" if task else "corpus"
        for name in ("train", "valid", "test"):
            source = getattr(corpus, name)
            for form in _SOURCES if source else ():
                yield from ((f"{section}.{name}.{form}", archives.split(text)[1]) for text in getattr(source, form))
