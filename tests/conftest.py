"""What every test shares: where the real corpora are, and one thread for each process."""

import os
import pathlib

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

pytest_plugins = ["tests.s3"]
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def corpora() -> pathlib.Path:
    """The folder of the real corpora: `RAYCURRENT_TEST_DATA`, else `shared/data` beside the repository."""
    folder = pathlib.Path(os.environ.get("RAYCURRENT_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "timemachine").is_dir():
        pytest.skip(f"the real corpora are not at {folder}; set RAYCURRENT_TEST_DATA to use them")
    return folder
