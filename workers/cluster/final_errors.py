"""Errors that no retry mends, said to KubeRay.

KubeRay tries a RayJob again, each time in a new cluster, whenever its Ray job has FAILED; the exit code does not matter
to it. A Ray job that was STOPPED is not tried again. So a driver whose error no retry mends asks the job server to stop
its own job before it ends, at the server that the manifest names by an environment variable.
"""

import json
import logging
import os
import signal
import threading
import urllib.error
import urllib.request

from core import errors
from workers.cluster import addresses, authentication

VARIABLE = "RAYCURRENT_STOPS_JOB_AT"
"""URL of the job server at which the driver stops its own job at an error that no retry mends."""
REPLY_TIMEOUT_S = 20.0
SIGNAL_TIMEOUT_S = 30.0  # between the reply and the signal that ends this process
_log = logging.getLogger(__name__)


def end_job(exit_code: int) -> None:
    """Stops the Ray job of this process if KubeRay would otherwise retry an error that no retry mends.

    Returns after the signal of the stop has arrived: the job is STOPPED only if its process still runs at that moment.
    """
    server, name = os.environ.get(VARIABLE, ""), _submission_id()
    if not server or name is None or exit_code not in errors.FINAL_EXIT_CODES:
        return
    if not authentication.is_this_machine(authentication.host_of(server)):  # the token is for no other
        _log.warning("%s: %s is not on this machine; the job may be retried in vain", VARIABLE, server)
        return
    stopped = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        if _request_stop(server, name):
            stopped.wait(SIGNAL_TIMEOUT_S)
    finally:
        signal.signal(signal.SIGTERM, before)


def _submission_id() -> str | None:
    """Returns the id of the job that this process is the driver of, from what Ray has put into its environment."""
    try:
        metadata = json.loads(os.environ[addresses.INSIDE_A_JOB])["metadata"]
        return str(metadata["job_submission_id"])
    except (KeyError, TypeError, ValueError):
        return None


def _request_stop(server: str, name: str) -> bool:
    token = authentication.own_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{server}/api/jobs/{name}/stop", data=b"", headers=headers, method="POST")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=REPLY_TIMEOUT_S) as reply:  # noqa: S310 (of this machine)
            return bool(json.load(reply).get("stopped"))
    except (OSError, ValueError, AttributeError) as error:
        _log.warning("the job could not be stopped, and may be retried in vain: %s", error)
        return False
