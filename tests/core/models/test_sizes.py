"""Numbers of parameters."""

from core.config import model_settings
from core.models import sizes, skeleton
from tests.core.models import test_bundle


def test_parameters_by_part_worked_by_hand() -> None:
    # An LSTM of 4 units over 3 inputs: 4 gates of 4 × (3 + 4) weights and two biases each.
    lstm = 4 * 4 * (3 + 4) + 2 * 4 * 4
    assert sizes.parameters_by_part(test_bundle.text_bundle().model) == {
        "embedding": 4 * 3,
        "recurrent layers": lstm,
        "output": 4 * 4 + 4,
    }
    made = test_bundle.translation_bundle()
    assert sizes.parameters_by_part(made.model) == {
        "embedding": 7 * 3 + 9 * 3,
        "encoder": lstm,
        "decoder": lstm,
        "output": (4 + 4) * 4 + 4 + 4 * 9 + 9,
    }
    tied = sizes.parameters_by_part(test_bundle.translation_bundle(shared=True).model)
    assert tied["output"] == (4 + 4) * 3 + 3 + 3 * 7 + 7
    assert "embedding" not in tied, "its weights are those of the output layer"
    assert isinstance(made.config, model_settings.Seq2SeqConfig)
    without = skeleton.without_memory(made.config, made.codecs, {})
    assert sizes.parameters_by_part(without) == sizes.parameters_by_part(made.model)
    assert {parameter.device.type for parameter in without.parameters()} == {"meta"}
