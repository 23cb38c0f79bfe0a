"""Pretrained embeddings: word vectors of a file at the model's input."""

from pathlib import Path
from typing import Any

import pytest
import torch

from core import errors
from core.config import model_settings
from core.models import factory, language_model, pretrained_embeddings
from core.storage import location

TOKENS = ("<unk>", "the", "of", "rare")
VECTORS = "3 2\nof 1 -2.5\nunknown 7 7\nthe 0.5 4e-1\nof 9 9\n"


def build(**settings: Any) -> language_model.LanguageModel:
    torch.manual_seed(2)
    config = model_settings.LanguageModelConfig(
        kind="language_model", **({"hidden_size": 6, "embedding_size": 2} | settings)
    )
    model = factory.build(config, {"text": 4}, pad_id=None)
    assert isinstance(model, language_model.LanguageModel)
    return model


def written(folder: Path, text: str) -> location.Location:
    (folder / "vectors.txt").write_text(text, encoding="utf-8")
    return location.Location.parse(str(folder / "vectors.txt"))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("header", [True, False])
def test_known_words_get_pretrained_vectors_and_others_keep_theirs(tmp_path: Path, tied: bool, header: bool) -> None:
    model, untouched = build(tie_embeddings=tied), build(tie_embeddings=tied)
    file = written(tmp_path, VECTORS if header else VECTORS.split("\n", 1)[1])
    assert pretrained_embeddings.load(file, TOKENS, model, "text") == 2
    expected = untouched.embed(torch.arange(4)).detach()
    expected[1:3] = torch.tensor([[0.5, 0.4], [1.0, -2.5]])
    torch.testing.assert_close(model.embed(torch.arange(4)), expected)


def test_words_of_word_vector_files_may_contain_spaces(tmp_path: Path) -> None:
    assert pretrained_embeddings.load(written(tmp_path, "of 1 2\n. . 3 4\nthe 5 6\n"), TOKENS, build(), "text") == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("of 1 2 3\n", "embedding_size: 3"),
        ("the 1 2\nof 1\n", "line 2 is not a word with 2 numbers"),
        ("of 1 x\n", "'of' has an entry that is not a number"),
        ("of 1 nan\n", "'of' has an entry that is not finite"),
    ],
)
def test_invalid_word_vectors_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(errors.DataError, match=complaint):
        pretrained_embeddings.load(written(tmp_path, text), TOKENS, build(), "text")


@pytest.mark.parametrize("settings", [{"input": "one_hot"}, {"adaptive_cutoffs": (2,), "tie_embeddings": True}])
def test_pretrained_vectors_need_a_full_embedding(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(errors.UsageError, match="no embedding with a row"):
        pretrained_embeddings.load(written(tmp_path, VECTORS), TOKENS, build(**settings), "text")


def test_a_file_without_line_ends_is_refused_at_the_limit_of_a_line(tmp_path: Path) -> None:
    with (tmp_path / "vectors.txt").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    vectors = location.Location.parse(str(tmp_path / "vectors.txt"))
    with pytest.raises(errors.DataError, match="line 1 is longer than 1048576 bytes"):
        pretrained_embeddings.load(vectors, TOKENS, build(), "text")
