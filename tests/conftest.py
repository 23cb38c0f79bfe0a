"""Fixtures of all tests: the real corpora, one thread per process, a token and no niceness for Ray."""

import os
import pathlib
from collections.abc import Iterator

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray starts workers with a niceness of 15: beside other work on the machine they would get no time at all.
NICENESS = "RAY_worker_niceness"
os.environ.setdefault(NICENESS, "0")

# `make test` runs tests that run make, which must not inherit flags of the outer make.
for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(name, None)

# No deadline: on a busy machine an example may take longer than the default of 200 ms.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

pytest_plugins = ["tests.object_stores", "tests.s3"]
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def corpora() -> pathlib.Path:
    """Returns the folder of the real corpora: `RAYCURRENT_TEST_DATA`, else `shared/data` beside the repository."""
    folder = pathlib.Path(os.environ.get("RAYCURRENT_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "timemachine").is_dir():
        pytest.skip(f"the real corpora are not in {folder}; set RAYCURRENT_TEST_DATA to use them")
    return folder


@pytest.fixture(scope="session", autouse=True)
def ray_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Sets one token for all clusters that the tests start, because Ray reads it once per process and caches it."""
    token = tmp_path_factory.mktemp("token") / "auth_token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef" * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        yield
