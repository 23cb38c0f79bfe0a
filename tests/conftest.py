"""What every test shares: where the real corpora are, one thread for each process, and one token for Ray."""

import os
import pathlib
from collections.abc import Iterator

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# `make test` runs tests that run make, which is to behave as one that a user starts.
for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(name, None)

# What is measured is what comes out: a busy machine may stop a test for longer than hypothesis waits.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

pytest_plugins = ["tests.s3"]
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def corpora() -> pathlib.Path:
    """The folder of the real corpora: `RAYCURRENT_TEST_DATA`, else `shared/data` beside the repository."""
    folder = pathlib.Path(os.environ.get("RAYCURRENT_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "timemachine").is_dir():
        pytest.skip(f"the real corpora are not at {folder}; set RAYCURRENT_TEST_DATA to use them")
    return folder


@pytest.fixture(scope="session", autouse=True)
def ray_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A token for every cluster that the tests start: Ray reads it once in a process and keeps it."""
    token = tmp_path_factory.mktemp("token") / "auth_token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef" * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        yield
