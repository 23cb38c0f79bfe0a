"""Our side of the comparison: the classes that the verbs use, on the same texts and sizes as the other side."""

import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import sacrebleu
import safetensors.torch
import torch

from core.config import inference_settings, model_settings, optimizer_settings, schema, training_settings
from core.data.tokens import tokenizer, vocabulary
from core.decoding.scoring import scorer
from core.decoding.translation import translator
from core.models import bundle, compute, factory, seq2seq
from core.models import state as states
from core.training import batches
from tests.benchmarks import workloads
from tests.benchmarks.peers import corpora, sides

Codecs = Mapping[str, tokenizer.Codec]


def translation_training(settings: sides.Settings) -> sides.Run:
    """Trains a translation model; a round is some steps, counted in target tokens."""
    folder = pathlib.Path(settings["corpus"])
    codecs = _pair_codecs(folder)
    columns = {
        side: [
            np.array([*ids, workloads.EOS]) for ids in codec.encode_lines(corpora.read_lines(folder / f"train.{side}"))
        ]
        for side, codec in codecs.items()
    }
    training = training_settings.TrainingConfig(
        batch_lines=settings["batch_lines"], learning_rate=settings["learning_rate"], clip_norm=settings["clip_norm"]
    )
    model = factory.build(_translation_config(settings), _sizes(codecs), workloads.PAD)
    learner = workloads.learner(model, training, settings["precision"])
    compute.use_matmul("auto", settings["precision"])
    stream = iter(workloads.PairBatches(workloads.PairsInMemory(columns), training))

    def run() -> sides.Round:
        num_tokens = 0
        for batch in itertools.islice(stream, settings["steps"]):
            learner.train_step([batch], [None], carries_state=False)
            num_tokens += batch.num_targets
        return sides.Round(num_tokens)

    return run


def translation(settings: sides.Settings) -> sides.Run:
    """Translates lines by beam search, with the weights that the other side trained."""
    folder = pathlib.Path(settings["corpus"])
    codecs, config = dict(_pair_codecs(folder)), _translation_config(settings)
    model = factory.build(config, _sizes(codecs), workloads.PAD)
    assert isinstance(model, seq2seq.Seq2Seq)
    _load_opennmt(model, codecs, pathlib.Path(settings["weights"]))
    decoding = inference_settings.DecodingConfig(beam_size=settings["beam_size"], max_length=settings["max_length"])
    ready = translator.Translator(bundle.Bundle(model, config, codecs, "eos", "fp32"), decoding, _compute(settings))
    lines = corpora.read_lines(folder / "test.source")[: settings["num_lines"]]
    references = corpora.read_lines(folder / "test.target")[: settings["num_lines"]]

    def run() -> sides.Round:
        rows, cpu_s = sides.timed(lambda: ready.translate(lines))
        bleu = sacrebleu.corpus_bleu([row.text for row in rows], [references], tokenize="none", force=True).score
        return sides.Round(sum(row.num_tokens for row in rows), cpu_s, {"BLEU": bleu})

    return run


def language_training(settings: sides.Settings) -> sides.Run:
    """Trains a language model on the lanes of a text, with the state carried; a round is some windows."""
    codec = _text_codec(settings)
    config = _language_config(settings)
    training = training_settings.TrainingConfig(
        num_lanes=settings["lanes"],
        window=settings["window"],
        optimizer=optimizer_settings.SgdConfig(),
        learning_rate=settings["learning_rate"],
        clip_norm=settings["clip_norm"],
        activation_regularization=settings.get("activation_regularization", 0.0),
        temporal_activation_regularization=settings.get("temporal_activation_regularization", 0.0),
    )
    model = factory.build(config, {"text": codec.tokenizer.vocabulary_size}, None)
    learner = workloads.learner(model, training, settings["precision"])
    compute.use_matmul("auto", settings["precision"])
    lines = codec.encode_lines(corpora.read_lines(pathlib.Path(settings["corpus"]) / "train"))
    assert codec.tokenizer.eos_id is not None
    stream = np.array([token for ids in lines for token in (*ids, codec.tokenizer.eos_id)])
    windows = _windows(stream, training)
    state: list[states.State | None] = [None]

    def run() -> sides.Round:
        num_tokens = 0
        for batch in itertools.islice(windows, settings["steps"]):
            state[:] = learner.train_step([batch], state, carries_state=True).states
            num_tokens += batch.num_targets
        return sides.Round(num_tokens)

    return run


def scoring(settings: sides.Settings) -> sides.Run:
    """Scores lines of a text with a language model of random weights, each line alone."""
    codec, config = _text_codec(settings), _language_config(settings)
    model = factory.build(config, {"text": codec.tokenizer.vocabulary_size}, None)
    packed = bundle.Bundle(model, config, {"text": codec}, "eos", "fp32")
    ready = scorer.Scorer(packed, inference_settings.ScoringConfig(), _compute(settings))
    lines = corpora.read_lines(pathlib.Path(settings["corpus"]) / "test")[: settings["num_lines"]]
    return lambda: sides.Round(sum(row.num_tokens for row in ready.score_lines(lines)))


def _translation_config(settings: sides.Settings) -> model_settings.Seq2SeqConfig:
    return model_settings.Seq2SeqConfig(
        kind="seq2seq",
        cell="lstm",
        bidirectional=True,
        hidden_size=settings["size"] // 2,
        embedding_size=settings["size"],
        attention="general",
        context=settings["context"],
        embedding_dropout=settings["dropout"],
        output_dropout=settings["dropout"],
    )


def _language_config(settings: sides.Settings) -> model_settings.LanguageModelConfig:
    return model_settings.LanguageModelConfig(
        kind="language_model",
        cell="lstm",
        num_layers=len(settings["sizes"]),
        hidden_size=tuple(settings["sizes"]),
        embedding_size=settings["embedding_size"],
        scale_tied=False,
        **settings["model"],
    )


def _pair_codecs(folder: pathlib.Path) -> Codecs:
    return {
        side: _word_codec(corpora.read_lines(folder / f"vocabulary.{side}"), vocabulary.RESERVED)
        for side in corpora.SIDES
    }


def _text_codec(settings: sides.Settings) -> tokenizer.Codec:
    """Returns the tokenizer of the most frequent words, or of characters."""
    folder = pathlib.Path(settings["corpus"])
    words, reserved = corpora.read_lines(folder / "vocabulary"), vocabulary.reserved_for("text")
    return _word_codec(words[: settings["vocabulary_size"] - len(reserved)], reserved)


def _word_codec(words: Sequence[str], reserved: Sequence[str]) -> tokenizer.Codec:
    counts = vocabulary.Counts()
    counts.add(words)
    return tokenizer.Codec((), tokenizer.from_counts("word", counts, 1, None, reserved))


def _sizes(codecs: Codecs) -> dict[str, int]:
    return {side: codec.tokenizer.vocabulary_size for side, codec in codecs.items()}


def _compute(settings: sides.Settings) -> schema.ComputeConfig:
    return schema.ComputeConfig(precision=settings["precision"])


def _windows(stream: npt.NDArray[np.int64], training: training_settings.TrainingConfig) -> Iterator[batches.Batch]:
    sequential = batches.SequentialLanes(stream, training, 1, 0, 1)
    for epoch in itertools.count():
        yield from sequential.read_epoch(epoch, 0)


def _load_opennmt(model: seq2seq.Seq2Seq, codecs: Codecs, folder: pathlib.Path) -> None:
    """Gives a model the weights of OpenNMT-py's of the same size, with the rows of words in our order."""
    theirs = safetensors.torch.load_file(folder / "weights.safetensors")
    words = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    reserved = {"<unk>": "<unk>", "<pad>": "<blank>", "<bos>": "<s>", "<eos>": "</s>"}
    rows = {}
    for side, codec in codecs.items():
        numbers = {word: number for number, word in enumerate(words[side])}
        names = map(codec.tokenizer.token, range(codec.tokenizer.vocabulary_size))
        rows[side] = torch.tensor([numbers[reserved.get(name, name)] for name in names])
    embedding = "embeddings.make_embedding.emb_luts.0.weight"
    weights = {
        "source_embedding.weight": theirs[f"encoder.{embedding}"][rows["source"]],
        "target_embedding.weight": theirs[f"decoder.{embedding}"][rows["target"]],
        "output.weight": theirs["generator.weight"][rows["target"]],
        "output.bias": theirs["generator.bias"][rows["target"]],
        # Their linear map is of the query, ours of the keys: q · (U k) = (Uᵀ q) · k.
        "attention.key.weight": theirs["decoder.attn.linear_in.weight"].t(),
        # Theirs is of [context; h] and has no bias, ours of [h; context].
        "readout.weight": theirs["decoder.attn.linear_out.weight"].roll(model.hidden_size, dims=1),
        "readout.bias": torch.zeros(model.feature_size),
    }
    for part in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        weights[f"encoder.forward_layers.0.fused.{part}"] = theirs[f"encoder.rnn.{part}"]
        weights[f"encoder.backward_layers.0.fused.{part}"] = theirs[f"encoder.rnn.{part}_reverse"]
        weights[f"decoder.layers.0.fused.{part}"] = theirs[f"decoder.rnn.{part}"]
    model.load_state_dict(weights)


if __name__ == "__main__":
    compute.set_threads(1)
    torch.manual_seed(1)
    sides.serve(
        {
            "translation_training": translation_training,
            "translation": translation,
            "language_training": language_training,
            "scoring": scoring,
        },
        {"torch": torch.__version__},
    )
