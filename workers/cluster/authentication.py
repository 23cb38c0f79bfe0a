"""Token authentication of Ray clusters.

Every client of a cluster must present the cluster's token. A local cluster gets a token of its own, in Ray's file in
the home folder. A token belongs to an address: that file is for clusters on this machine; the token of another machine
is in a file named after its address, or named by the environment, and goes to no other address.
"""

import ipaddress
import logging
import os
import secrets
import socket
import sys
from pathlib import Path

from core import errors
from core.storage import local_files
from workers.cluster import addresses

MODE = "RAY_AUTH_MODE"
_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_log = logging.getLogger(__name__)


def prepare_token(joins: bool, folder: Path, address: str = "") -> None:
    """Enables token mode, and creates the token of a local cluster if there is none.

    The file is created here because Ray would create it world-readable; the token is never printed.

    Args:
        joins: True for a cluster that exists already and has its token.
        folder: private folder for the token of a user whose home is not writable.
        address: address of the cluster to join.

    Raises:
        UsageError: the cluster is on another machine, and no token belongs to its address.
    """
    if joins:
        if addresses.INSIDE_A_JOB not in os.environ:  # a Ray job inherits the mode and the token of its cluster
            os.environ.setdefault(MODE, "token")
            if not is_this_machine(host_of(address)):
                _use(_token_of(address, "cluster.address"))
        _warn_if_open(f"the cluster at {address}")
        return
    if "ray" not in sys.modules:  # Ray reads its environment on import
        os.environ.setdefault(MODE, "token")
    _warn_if_open("the cluster that starts on this machine")
    if os.environ.get(MODE, "token") != "token" or any(map(os.environ.get, _VARIABLES)):
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


def _warn_if_open(what: str) -> None:
    if os.environ.get(MODE) == "disabled":
        _log.warning(
            "RAY_AUTH_MODE=disabled: whoever reaches %s can run any code there, as its user; unset it to use a token",
            what,
        )


def check_client(address: str) -> None:
    """Checks that a job server is on this machine, or that a token belongs to its address.

    Raises:
        UsageError: neither holds.
    """
    if is_this_machine(host_of(address)):
        return
    if os.environ.get(MODE, "token") != "token":
        raise errors.UsageError(
            f"--address: {address} is on another machine, and RAY_AUTH_MODE is {os.environ[MODE]}: a cluster without "
            "authentication runs code from anybody; unset it"
        )
    _token_of(address, "--address")


def prepare_client(address: str) -> None:
    """Sets the mode and the token of requests to a job server, before Ray is imported; see `check_client`.

    On this machine a token is sent if there is one.
    """
    check_client(address)
    if not is_this_machine(host_of(address)):
        _use(_token_of(address, "--address"))
    elif os.environ.get(MODE, "token") == "token" and not any(map(os.environ.get, _VARIABLES)) and not _has_own_file():
        os.environ[MODE] = "disabled"
        return
    os.environ.setdefault(MODE, "token")


def own_token() -> str | None:
    """Returns the token of the cluster on this machine, as Ray reads it; None if there is none."""
    if os.environ.get(MODE, "token") != "token":
        return None
    if value := os.environ.get("RAY_AUTH_TOKEN"):
        return value.strip()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        return (Path(path) if path else _file()).read_text().strip()
    except (OSError, RuntimeError, ValueError):
        return None


def _has_own_file() -> bool:
    try:
        return _file().exists()
    except RuntimeError:  # no home
        return False


def _use(file: Path | None) -> None:
    if file is not None:
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)


def _token_of(address: str, where: str) -> Path | None:
    """Returns the file of the token of an address on another machine; None if the environment names the token.

    Raises:
        UsageError: there is none, or others may read its file.
    """
    if os.environ.get(MODE, "token") != "token" or any(map(os.environ.get, _VARIABLES)):
        return None
    try:
        path = token_file(address)
        exists = path.exists()
    except (OSError, RuntimeError):  # no home, or one that cannot be read
        path, exists = Path("~/.config/raycurrent/tokens"), False
    if not exists:
        raise errors.UsageError(
            f"{where}: {address} is on another machine, and no token is set for it; put the cluster's into {path} "
            "(chmod 600), or set RAY_AUTH_TOKEN_PATH to its file"
        )
    if path.stat().st_mode & 0o077:
        raise errors.UsageError(f"{where}: others may read the token in {path}; chmod 600 it")
    return path


def token_file(address: str) -> Path:
    """Returns the file of the token of a cluster on another machine, named after its host and port."""
    authority = address.rpartition("://")[2].partition("/")[0]
    return Path.home() / ".config" / "raycurrent" / "tokens" / authority.lower()


def host_of(address: str) -> str:
    """Returns the host of an address or URL; empty for a keyword, such as `auto`."""
    authority = address.rpartition("://")[2].partition("/")[0]
    host, _, port = authority.rpartition(":")
    if not host or not port.isdecimal():
        host = authority if "://" in address else ""
    return host.strip("[]")


def is_this_machine(host: str) -> bool:
    """Returns whether a host, by name or number, is an address of this machine; a keyword of Ray (no host) is."""
    if host in ("", "localhost"):
        return True
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        # Other names are not looked up: who answers for the name would decide where the token goes.
        return host == socket.gethostname()
    if number.is_loopback:
        return True
    try:
        with socket.socket(socket.AF_INET6 if number.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Possible for the addresses of this machine alone.
            probe.bind((host, 0))
    except OSError:
        return False
    return not number.is_unspecified


def _file() -> Path:
    return Path.home() / ".ray" / "auth_token"
