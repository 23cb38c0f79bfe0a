"""Credentials for a Pushgateway: from a file or the environment, never from a setting, which is stored and shown."""

import os
from pathlib import Path

from core import errors

VARIABLE = "RAYCURRENT_PUSHGATEWAY_CREDENTIALS"
_MAX_BYTES = 4096


def credentials(file: str | None) -> tuple[str, str] | None:
    """Returns user and password from a file, else from the environment; None if neither is given.

    Raises:
        UsageError: the file cannot be read, or what is given is not `user:password`.
    """
    where, text = VARIABLE, os.environ.get(VARIABLE)
    if file is not None:
        where = f"telemetry.pushgateway_credentials: {file}"
        try:
            path = Path(file)
            if path.exists() and not path.is_file():
                raise errors.UsageError(f"{where}: is not a file; name one with user:password")
            with path.open(encoding="utf-8") as opened:
                text = opened.read(_MAX_BYTES)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise errors.UsageError(f"{where}: cannot be read ({reason}); name a file with user:password") from error
    if text is None or (file is None and not text):
        return None
    user, colon, password = text.rstrip("\r\n").partition(":")
    if not colon or not user or not password.isprintable():
        raise errors.UsageError(f"{where}: does not hold user:password on one line; write it like that")
    return user, password
