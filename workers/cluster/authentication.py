"""Who may use a cluster: Ray is told to ask everybody for a token."""

import os
import secrets
import sys
from pathlib import Path

_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def prepare_token(joins: bool, folder: Path) -> None:
    """Chooses token mode, and makes the token of a local cluster if there is none.

    The file is made here because Ray would make it readable for all; it is never printed.

    Args:
        joins: the cluster is there already, and so is its token.
        folder: a private folder, for the token of a user whose home cannot be written.
    """
    if joins:
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a job inherits the mode of its cluster
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        return
    if "ray" not in sys.modules:  # it has read its environment when it was imported; `ray.init` then chooses this mode
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or any(map(os.environ.get, _VARIABLES)):
        return
    path = _file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            path.chmod(0o600)  # Ray makes it readable for all
            return
    except OSError:  # a home that cannot be written: the token lives as long as the session
        path = folder / "auth_token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    written = folder / "new_token"
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(written, path)  # whole or not at all: another driver may start at this moment
    except FileExistsError:
        pass
    except OSError:
        written.rename(path)


def has_token() -> bool:
    """Would a request of ours carry a token?"""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return False
    return any(map(os.environ.get, _VARIABLES)) or _file().exists()


def prepare_client() -> None:
    """Chooses the mode of requests to a job server, before Ray is imported: who has a token sends it."""
    os.environ["RAY_AUTH_MODE"] = "token" if has_token() else "disabled"


def _file() -> Path:
    return Path.home() / ".ray" / "auth_token"
