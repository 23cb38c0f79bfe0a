"""Which dataset a run is trained on."""

import pathlib

import pytest

from core import errors
from jobs import console, prepare, train
from tests.jobs import conftest
from workers import cluster


def test_where_a_corpus_lay_does_not_matter_and_how_it_was_prepared_does(tmp_path: pathlib.Path) -> None:
    conftest.write_corpus(tmp_path)
    before = conftest.configured(conftest.LANGUAGE, tmp_path, "training.max_steps=1")
    moved = conftest.configured(
        conftest.LANGUAGE, tmp_path, "training.max_steps=2", f"corpus.train.text=[{tmp_path}/elsewhere/book.txt]"
    )
    other = conftest.configured(conftest.LANGUAGE, tmp_path, "corpus.cleaning=[lower]")
    with cluster.Session(before.cluster) as session:
        reporter = console.SilentReporter()
        prepare.run(before, session, reporter)
        assert train.run(before, session, reporter)["step"] == 1
        assert train.run(moved, session, reporter)["step"] == 2
        with pytest.raises(errors.LockedError, match=r"corpus\.cleaning: the dataset in .* with another value"):
            train.run(other, session, reporter)
