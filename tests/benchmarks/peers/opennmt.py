"""OpenNMT-py's side: its own data pipeline, model, trainer and beam search, in an environment of its own.

spaCy and fastText are imported by its transforms, of which none is used here; modules without content stand for them.
"""

import argparse
import importlib.metadata
import json
import logging
import pathlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import sacrebleu
import safetensors.torch
import torch
import yaml

from tests.benchmarks.peers import sides

for _name in ("spacy", "fasttext"):
    sys.modules[_name] = types.ModuleType(_name)

from onmt import inference_engine, model_builder, opts, trainer  # noqa: E402 (after the modules that it imports)
from onmt.inputters import dynamic_iterator, inputter  # noqa: E402
from onmt.transforms import get_transforms_cls  # noqa: E402
from onmt.utils import optimizers, parse, statistics  # noqa: E402

_EOS = "</s>"


def translation_training(settings: sides.Settings) -> sides.Run:
    """Trains a translation model; a round is some steps, counted in target tokens."""
    training = _Training(settings)

    def run() -> sides.Round:
        return sides.Round(training.take_steps(settings["steps"]))

    return run


def translation(settings: sides.Settings) -> sides.Run:
    """Translates lines by beam search with a model that is trained before, unless it is there."""
    folder = pathlib.Path(settings["weights"])
    if not (folder / "vocabulary.json").exists():
        _train(settings, folder)
    parser = parse.ArgumentParser(description="translate")
    opts.translate_opts(parser)
    options = parser.parse_args(
        [
            *("-model", str(folder / "model.pt"), "-src", str(folder / "test.source"), "-output", "/dev/null"),
            *("-beam_size", str(settings["beam_size"]), "-max_length", str(settings["max_length"])),
            *("-batch_type", "sents", "-batch_size", str(settings["their_batch_lines"]), "-gpu", "-1"),
        ]
    )
    parse.ArgumentParser.validate_translate_opts(options)
    parse.ArgumentParser._get_all_transform_translate(options)
    parse.ArgumentParser._validate_transforms_opts(options)
    parse.ArgumentParser.validate_translate_opts_dynamic(options)
    engine = inference_engine.InferenceEnginePY(options)
    corpus = pathlib.Path(settings["corpus"])
    lines = _lines(corpus / "test.source", settings["num_lines"])
    references = _lines(corpus / "test.target", settings["num_lines"])
    sources = [f"{line} {_EOS}" for line in lines]

    def run() -> sides.Round:
        (_, hypotheses), cpu_s = sides.timed(lambda: engine.infer_list(sources))
        best = [alternatives[0] for alternatives in hypotheses]
        bleu = sacrebleu.corpus_bleu(best, [references], tokenize="none", force=True).score
        # As in ours the end of a translation is one of its tokens.
        return sides.Round(sum(len(line.split()) + 1 for line in best), cpu_s, {"BLEU": bleu})

    return run


class _Training:
    """A model and its trainer, with batches that never end."""

    def __init__(self, settings: sides.Settings) -> None:
        self.options = _training_options(settings)
        transforms = get_transforms_cls(self.options._all_transform)
        self.vocabularies = inputter.build_vocab(self.options, {"src": [], "tgt": []})
        self.model = model_builder.build_model(self.options, self.options, self.vocabularies, None, -1)
        optimizer = optimizers.Optimizer.from_opt(self.model, self.options)
        self._trainer = trainer.build_trainer(self.options, -1, self.model, self.vocabularies, optimizer)
        stream = dynamic_iterator.build_dynamic_dataset_iter(
            self.options, transforms, self.vocabularies, task="train", device_id=-1
        )
        self._batches: Iterator[tuple[list[Any], int]] = iter(self._trainer._accum_batches(stream))

    def take_steps(self, num_steps: int) -> int:
        """Takes steps, and returns the number of their target tokens."""
        total, recent = statistics.Statistics(), statistics.Statistics()
        for _ in range(num_steps):
            batches, normalization = next(self._batches)
            self._trainer._gradient_accumulation(batches, normalization, total, recent)
        return int(total.n_words)


def _training_options(settings: sides.Settings) -> argparse.Namespace:
    corpus, folder = pathlib.Path(settings["corpus"]), pathlib.Path(settings["work_folder"])
    folder.mkdir(parents=True, exist_ok=True)
    # Its sources have no end token, ours do: as a word of the text both have as many tokens.
    source = folder / "train.source"
    source.write_text("".join(f"{line} {_EOS}\n" for line in _lines(corpus / "train.source")), encoding="utf-8")
    size = str(settings["size"])
    data = {"corpus": {"path_src": str(source), "path_tgt": str(corpus / "train.target"), "weight": 1}}
    (folder / "data.yaml").write_text(yaml.safe_dump({"data": data}), encoding="utf-8")
    parser = parse.ArgumentParser(description="train")
    opts.train_opts(parser)
    options: argparse.Namespace = parser.parse_args(
        [
            *("-config", str(folder / "data.yaml"), "-save_model", str(folder / "model")),
            *("-src_vocab", str(corpus / "vocabulary.source"), "-tgt_vocab", str(corpus / "vocabulary.target")),
            *("-vocab_size_multiple", "1", "-encoder_type", "brnn", "-decoder_type", "rnn", "-rnn_type", "LSTM"),
            *("-layers", "1", "-hidden_size", size, "-word_vec_size", size, "-global_attention", "general"),
            *("-input_feed", str(int(settings["context"] == "feed")), "-dropout", str(settings["dropout"])),
            *("-optim", "adam", "-learning_rate", str(settings["learning_rate"])),
            *("-max_grad_norm", str(settings["clip_norm"])),
            *("-batch_type", "sents", "-batch_size", str(settings["batch_lines"]), "-num_workers", "0"),
            *("-bucket_size", str(len(_lines(source))), "-seed", "1"),
        ]
    )
    parse.ArgumentParser.validate_train_opts(options)
    parse.ArgumentParser.update_model_opts(options)
    parse.ArgumentParser.validate_model_opts(options)
    parse.ArgumentParser.validate_prepare_opts(options)
    return options


def _train(settings: sides.Settings, folder: pathlib.Path) -> None:
    """Trains a model and saves it in its own format, and its weights and vocabularies for our side."""
    training = _Training({**settings, "work_folder": str(folder)})
    for _ in range(settings["training_steps"]):
        training.take_steps(1)
    weights = {name: weight.detach().clone() for name, weight in training.model.state_dict().items()}
    generator = {name: weight.detach().clone() for name, weight in training.model.generator.state_dict().items()}
    torch.save(
        {
            "model": {name: weight for name, weight in weights.items() if "generator" not in name},
            "generator": generator,
            "vocab": inputter.vocabs_to_dict(training.vocabularies),
            "opt": training.options,
            "optim": {},
        },
        folder / "model.pt",
    )
    weights |= {f"generator.{name}": weight for name, weight in generator.items()}
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    words = {
        side: list(training.vocabularies[key].ids_to_tokens) for side, key in (("source", "src"), ("target", "tgt"))
    }
    # Last: its presence says that the model is whole.
    (folder / "vocabulary.json").write_text(json.dumps(words), encoding="utf-8")


def _lines(file: pathlib.Path, count: int | None = None) -> list[str]:
    return file.read_text(encoding="utf-8").split("\n")[:-1][:count]


if __name__ == "__main__":
    logging.disable(logging.INFO)
    # Its checkpoints hold their options as a namespace.
    torch.serialization.add_safe_globals([argparse.Namespace])
    sides.serve(
        {"translation_training": translation_training, "translation": translation},
        {"OpenNMT-py": importlib.metadata.version("OpenNMT-py"), "torch": torch.__version__},
    )
