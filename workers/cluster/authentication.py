"""Token authentication of Ray clusters.

Every client of a cluster must present the cluster's token. A local cluster gets a token of its own.
"""

import os
import secrets
import sys
from pathlib import Path

from core.storage import local_files

_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def prepare_token(joins: bool, folder: Path) -> None:
    """Enables token mode, and creates the token of a local cluster if there is none.

    The file is created here because Ray would create it world-readable; the token is never printed.

    Args:
        joins: True for a cluster that exists already and has its token.
        folder: private folder for the token of a user whose home is not writable.
    """
    if joins:
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a Ray job inherits the mode of its cluster
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        return
    if "ray" not in sys.modules:  # Ray reads its environment on import
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or any(map(os.environ.get, _VARIABLES)):
        return
    try:
        path = _file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            path.chmod(0o600)  # Ray creates it world-readable
            return
    # The home is not writable, or the user has none: the token lives as long as the session.
    except (OSError, RuntimeError):
        path = folder / "auth_token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    # A token that another driver creates at the same moment is kept, and used by both.
    local_files.create(path, lambda file: file.write(secrets.token_hex(32).encode()), mode=0o600)


def has_token() -> bool:
    """Returns whether our requests carry a token."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return False
    if any(map(os.environ.get, _VARIABLES)):
        return True
    try:
        return _file().exists()
    except RuntimeError:  # no home
        return False


def prepare_client() -> None:
    """Sets the mode of requests to a job server, before Ray is imported: a token is sent if there is one."""
    os.environ["RAY_AUTH_MODE"] = "token" if has_token() else "disabled"


def _file() -> Path:
    return Path.home() / ".ray" / "auth_token"
