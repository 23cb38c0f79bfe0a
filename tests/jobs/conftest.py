"""Fixtures: a tiny finished run of each kind, made once by the pipeline in this process."""

import pathlib
from collections.abc import Callable

import pytest

from core.config import loading, schema
from core.data.builtin import sentences
from core.storage import location
from jobs import paths, pipeline
from tests import reporters
from workers.cluster import session as sessions

TRANSLATION = """
name: tiny-translation
root: {folder}/translation
corpus:
  kind: pairs
  train: {{tsv: [{folder}/pairs.tsv]}}
  split: {{valid: 0.1, test: 0.1}}
tokenizer: {{kind: word}}
sharding: {{part_size_bytes: 4096}}
model: {{kind: seq2seq, cell: gru, hidden_size: 8, embedding_size: 8, attention: dot}}
training: {{epochs: 1, batch_lines: 32, checkpoint_every_steps: 2, log_every_steps: 1}}
decoding: {{beam_size: 2, max_length: 12, part_lines: 8}}
scoring: {{part_lines: 8}}
cluster: {{address: none}}
compute: {{precision: fp32, matmul: default}}
"""
LANGUAGE = """
name: tiny-language
root: {folder}/language
corpus: {{kind: text, train: {{text: [{folder}/english.txt]}}, split: {{valid: 0.1, test: 0.1}}}}
tokenizer: {{kind: char}}
model: {{kind: language_model, cell: lstm, hidden_size: 8, embedding_size: 8}}
training: {{epochs: 1, num_lanes: 16, window: 32}}
generation: {{method: greedy, num_tokens: 5}}
cluster: {{address: none}}
compute: {{precision: fp32, matmul: default}}
"""

Run = Callable[[schema.RunConfig], location.Location]


def write_corpus(folder: pathlib.Path) -> None:
    """Writes a corpus of 200 pairs, and one of their English sides."""
    sentences.write_pairs(folder / "pairs.tsv", 1, 0, 200)
    sentences.write_english(folder / "english.txt", 1, 0, 200)


def configured(text: str, folder: pathlib.Path, *overrides: str) -> schema.RunConfig:
    """Returns the settings of a run in a folder."""
    return paths.absolute(loading.parse(text.format(folder=folder), "tiny.yaml", overrides))


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Returns a folder with the finished runs `translation` and `language`, which tests must not change."""
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder)
    for text in (TRANSLATION, LANGUAGE):
        config = configured(text, folder)
        with sessions.Session(config.cluster) as session:
            pipeline.run(config, session, reporters.SilentReporter())
    return folder
