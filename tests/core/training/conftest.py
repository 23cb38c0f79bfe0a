"""Datasets of the tests of training."""

import pytest

from core.storage import location
from tests.core.training import builders


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> location.Location:
    return builders.text_dataset(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> location.Location:
    return builders.pairs_dataset(tmp_path_factory.mktemp("pairs"))
