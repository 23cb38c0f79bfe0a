"""Addresses of Ray clusters: which one a run uses, and whether it answers, without importing Ray."""

import os
import socket
import time

from core import errors

CONNECT_TIMEOUT_S = 8.0  # for all addresses of a host together
INSIDE_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the entry point of a submitted job


def resolve(setting: str) -> str:
    """Returns the address that a value of `cluster.address` means: itself, or for `auto` that of the surroundings."""
    if setting != "auto":
        return setting
    return os.environ.get("RAY_ADDRESS") or ("auto" if INSIDE_A_JOB in os.environ else "local")


def check_reachable(setting: str) -> None:
    """Connects to the cluster that a value of `cluster.address` names, if it names one by host and port.

    Ray itself would try for minutes, and a stage of a single part would not use the cluster at all.

    Raises:
        ClusterError: nothing answers there.
    """
    address = resolve(setting)
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():  # a keyword; what else RAY_ADDRESS may hold is left to Ray
        return
    try:
        _connect(host.strip("[]"), int(port))
    except OSError as error:
        name = "RAY_ADDRESS" if setting == "auto" else "cluster.address"
        raise errors.ClusterError(
            f"{name}: {address} does not answer ({error.strerror or error}); start the cluster, or use auto "
            "for a local one, or none to run in this process"
        ) from error


def _connect(host: str, port: int) -> None:
    """Connects to the first of a host's addresses that answers; raises the last error if none does."""
    deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
    last_error: OSError = OSError("has no address")
    for family, kind, protocol, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as connection:
            connection.settimeout(max(1.0, deadline_s - time.monotonic()))
            try:
                connection.connect(target)
            except OSError as error:
                last_error = error
            else:
                return
    raise last_error
