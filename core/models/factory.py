"""From settings to a model with its first weights."""

from collections.abc import Mapping

from torch import nn

from core import errors
from core.config import model_settings
from core.models import language_model, seq2seq

Model = language_model.LanguageModel | seq2seq.Seq2Seq


def build(model: model_settings.ModelConfig, vocabulary_sizes: Mapping[str, int], pad_id: int | None) -> Model:
    """Builds the model with initial weights drawn from torch's default generator, which the caller seeds.

    Args:
        model: its settings.
        vocabulary_sizes: of `text` for a language model, of `source` and `target` for pairs.
        pad_id: the id of padding, whose embedding takes no gradient.

    Raises:
        UsageError: the settings do not fit each other or the vocabularies.
    """
    built: Model
    if model.kind == "language_model":
        built = language_model.LanguageModel(model, vocabulary_sizes["text"])
    else:
        source_size, target_size = vocabulary_sizes["source"], vocabulary_sizes["target"]
        if model.tie_embeddings == "all" and source_size != target_size:
            raise errors.UsageError(
                f"model.tie_embeddings: all needs one vocabulary, but the source has {source_size} entries and the "
                f"target {target_size}; use tokenizer.shared: true"
            )
        built = seq2seq.Seq2Seq(model, source_size, target_size, pad_id)
    initialise(built, model.initialization)
    return built


def initialise(model: nn.Module, how: str) -> None:
    """Draws the first weights anew.

    `torch` leaves what the library drew: uniform by fan-in, embeddings N(0, 1), one that is the output layer
    too N(0, 1/E). `xavier`: Glorot uniform for all matrices but
    embeddings that are not shared so, biases zero. `normal`: standard deviation 0.01 for all matrices, biases zero.

    Source: Dive into Deep Learning, `xavier_init_weights`, which passes embeddings by; document 000 section 8.5.
    """
    if how == "torch":
        return
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    embeddings -= {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    for parameter in model.parameters():
        if parameter.dim() < 2:
            nn.init.zeros_(parameter)
        elif how == "xavier" and id(parameter) not in embeddings:
            nn.init.xavier_uniform_(parameter)
        elif how == "xavier":
            nn.init.normal_(parameter)
        else:
            nn.init.normal_(parameter, std=0.01)
