"""Pretrained embeddings are loaded at the first start of a run, and not by a resume."""

from pathlib import Path

import torch

from core.models import bundle, language_model
from tests.core.training import builders

VECTORS = "2 8\na 1 2 3 4 5 6 7 8\nzebra 0 0 0 0 0 0 0 0\n"


def _row_of_a(root: Path) -> torch.Tensor:
    loaded = bundle.load(bundle.select_checkpoints(builders.location_of(root), 1)[0].bundle)
    assert isinstance(loaded.model, language_model.LanguageModel)
    return loaded.model.embed(torch.tensor(loaded.codecs["text"].tokenizer.encode("a"))).detach().flatten()


def test_pretrained_embeddings_are_loaded_at_the_first_start_only(tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_text(VECTORS)
    given = {"text": str(tmp_path / "vectors.txt")}
    job = builders.job(
        tmp_path / "run", builders.text_dataset(tmp_path / "text"), embeddings=given, learning_rate=1e-6, epochs=1
    )
    builders.train(job, stop_after=2)
    (tmp_path / "vectors.txt").write_text(VECTORS.replace("a 1 2", "a 9 9"))
    builders.train(job)
    torch.testing.assert_close(_row_of_a(tmp_path / "run"), torch.arange(1.0, 9.0), atol=1e-3, rtol=0)
