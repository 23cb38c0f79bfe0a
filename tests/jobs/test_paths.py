"""Path resolution: relative paths become absolute; paths that workers cannot reach are refused."""

import pathlib

import pytest

from core import errors
from core.config import loading, schema
from jobs import paths

TEXT = """
name: x
root: runs/x
corpus: {kind: text, train: {text: [data/*.txt]}}
model: {kind: language_model}
"""


def settings(*overrides: str) -> schema.RunConfig:
    return loading.parse(TEXT, "x.yaml", overrides)


def test_relative_paths_start_from_the_current_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(paths.HOME, raising=False)
    monkeypatch.chdir(tmp_path)
    resolved = paths.absolute(settings("training.init_from=../other"))
    assert resolved.root == f"{tmp_path}/runs/x"
    assert resolved.corpora_by_name[""].train.text == (f"{tmp_path}/data/*.txt",)
    assert resolved.training.init_from == f"{tmp_path.parent}/other"
    vectors = paths.absolute(settings("training.embeddings={text: vectors.txt}")).training.embeddings
    assert vectors == {"text": f"{tmp_path}/vectors.txt"}


def test_relative_paths_start_from_raycurrent_home_if_it_is_set(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(paths.HOME, "/big/disk")
    monkeypatch.chdir(tmp_path)
    assert paths.absolute(settings()).root == "/big/disk/runs/x"


def test_resolving_absolute_paths_changes_nothing() -> None:
    once = paths.absolute(settings("cluster.address=none", "root=memory://a/b"))
    assert paths.absolute(once) == once


@pytest.mark.parametrize(("override", "where"), [("name=x", "root"), ("root=/r", "corpus.train.text")])
def test_a_relative_path_in_a_ray_job_is_refused(override: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.delenv(paths.HOME, raising=False)
    with pytest.raises(errors.UsageError, match=rf"^{where}: .*RAYCURRENT_HOME"):
        paths.absolute(settings(override))


def test_a_root_on_the_web_is_refused() -> None:
    with pytest.raises(errors.UsageError, match=r"root: .*only be read"):
        paths.absolute(settings("root=https://example.org/runs"))


def test_memory_locations_are_refused_if_other_processes_do_the_work() -> None:
    with pytest.raises(errors.UsageError, match=r"root: 'memory://a/b' is in the memory .*cluster.address: none"):
        paths.absolute(settings("root=memory://a/b"))
