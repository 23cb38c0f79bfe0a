"""The configurations that come along can be used, and are what they say."""

import pathlib

import pytest

from core.config import autoregressive_settings, loading, model_settings
from core.models import autoregressive, factory, seq2seq

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "jobs" / "configs"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_can_be_read(path: pathlib.Path) -> None:
    assert loading.load(str(path)).root.startswith("runs/")


def test_the_deep_one_is_eight_and_eight_residual_layers_with_attention() -> None:
    """Wu et al. 2016, figure 1: the lowest encoder layer reads both ways, the seven above it forward."""
    config = loading.load(str(FOLDER / "multi30k-deep.yaml"), ["model.hidden_size=4", "model.embedding_size=4"]).model
    assert isinstance(config, model_settings.Seq2SeqConfig)
    assert (config.connections, config.attention) == ("residual", "additive")
    model = factory.build(config, {"source": 9, "target": 9}, 1)
    assert isinstance(model, seq2seq.Seq2Seq)
    assert model.encoder.sizes == (8, *(4,) * 7)
    assert len(model.decoder.layers) == 8


def test_the_sine_is_learnt_by_the_documents_network() -> None:
    """Four values in, ten hidden units, one value out, batches of 16: document 000 section 8.1.2."""
    config = loading.load(str(FOLDER / "sine.yaml"))
    assert isinstance(config.model, autoregressive_settings.AutoregressiveConfig)
    model = autoregressive.Autoregressive(config.model, len(config.tasks[""].inputs), len(config.tasks[""].targets))
    assert [tuple(one.shape) for one in model.parameters()] == [(10, 4), (10,), (1, 10), (1,)]
    assert config.training.batch_lines == 16
