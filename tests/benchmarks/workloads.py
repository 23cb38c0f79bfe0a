"""Workloads of the throughput benchmarks: published model sizes, random weights, seeded data of realistic lengths."""

import itertools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from core.config import inference_settings, model_settings, optimizer_settings, schema, training_settings
from core.data import translation_table
from core.data.dataset import shards
from core.data.tokens import tokenizer, vocabulary
from core.decoding.scoring import scorer
from core.decoding.translation import translator
from core.models import bundle, factory, language_model, seq2seq
from core.models import compute as computing
from core.telemetry import metrics
from core.training import batches, collective, gradients, losses, optimizers, progress, step, trainer
from tests.benchmarks import harness, plain
from tests.core.training import builders

Variants = Mapping[str, Callable[[], harness.Done]]
RESERVED = 4
PAD, BOS, EOS = 1, 2, 3


class PairsInMemory:
    """Token ids of pairs, by column; lines end with `<eos>`."""

    def __init__(self, columns: Mapping[str, list[npt.NDArray[np.int64]]]) -> None:
        self.columns = columns
        self.num_lines = len(columns["source"])

    def lengths(self, start: int, stop: int) -> Mapping[str, npt.NDArray[np.int32]]:
        """Returns the number of tokens of each line in a range, by column."""
        return {
            name: np.fromiter(map(len, rows[start:stop]), np.int32, stop - start) for name, rows in self.columns.items()
        }

    def rows(self, indices: npt.NDArray[np.int64], column: str) -> list[npt.NDArray[Any]]:
        """Returns the token ids of some lines."""
        return [self.columns[column][index] for index in indices.tolist()]


class Pairs(PairsInMemory):
    """Random pairs with the lengths of image captions in subwords: 15 ± 5 tokens, both sides alike."""

    def __init__(self, num_lines: int, vocabulary_size: int) -> None:
        rng = np.random.default_rng(1)
        sources = np.clip(rng.gamma(9.0, 1.6, num_lines) + 1, 4, 48).astype(np.int64)
        targets = np.clip(sources + rng.normal(0.0, 2.0, num_lines), 3, 50).astype(np.int64)
        super().__init__(
            {
                name: [np.append(rng.integers(RESERVED, vocabulary_size, length), EOS) for length in lengths]
                for name, lengths in (("source", sources), ("target", targets))
            }
        )


class PairBatches:
    """Batches of pairs like those of training, without end."""

    def __init__(self, pairs: PairsInMemory, training: training_settings.TrainingConfig) -> None:
        self._batch_stream = batches.BucketedPairs(pairs, training, batches.PairsIds(PAD, BOS), 1, 0, 1)

    def __iter__(self) -> Iterator[batches.Batch]:
        for epoch in itertools.count():
            yield from self._batch_stream.read_epoch(epoch, 0)


def learner(
    model: factory.Model, training: training_settings.TrainingConfig, precision: computing.Precision
) -> step.Learner:
    """Returns our training step over a model, in one process on the CPU."""
    learned = losses.Objective(model, training.label_smoothing).train()
    optimizer = optimizers.build(model, training)
    return step.Learner(learned, learned, optimizer, torch.device("cpu"), precision, gradients.limits(training))


def seq2seq_training(precision: computing.Precision) -> Variants:
    """Returns seq2seq training: GRU 2×256, additive attention whose context is a decoder input, 5,000 subwords."""
    pairs = Pairs(4096, 5000)
    training = training_settings.TrainingConfig(batch_tokens=1200)
    config = model_settings.Seq2SeqConfig(
        kind="seq2seq", cell="gru", num_layers=2, attention="additive", context="input", hidden_size=256
    )
    ours = learner(factory.build(config, {"source": 5000, "target": 5000}, PAD), training, precision)
    stream = iter(PairBatches(pairs, training))

    def run_ours() -> harness.Done:
        computing.use_matmul("auto", precision)
        num_tokens = 0
        for batch in itertools.islice(stream, 12):
            ours.train_step([batch], [None], carries_state=False)
            num_tokens += batch.num_targets
        return harness.Done(num_tokens)

    baseline = plain.AttentionSeq2Seq(5000, 256, 256, 2)
    optimizer = torch.optim.Adam(baseline.parameters())
    lines = list(zip(*(map(np.ndarray.tolist, pairs.columns[name]) for name in ("source", "target")), strict=True))
    corpus_order = itertools.cycle(list(plain.padded_batches(lines, 64)))

    def run_baseline() -> harness.Done:
        computing.use_matmul("default", "fp32")
        num_tokens = 0
        for source_BS, lengths_B, targets_BT in itertools.islice(corpus_order, 12):
            inputs_BT = F.pad(targets_BT[:, :-1], (1, 0), value=BOS)
            plain.step(baseline, optimizer, baseline(source_BS, lengths_B, inputs_BT), targets_BT)
            num_tokens += int((targets_BT != 0).sum())
        return harness.Done(num_tokens)

    return {"ours": run_ours, "baseline": run_baseline}


def language_training(
    cell: str, num_layers: int, size: int, vocabulary: int, rows: int, precision: computing.Precision
) -> Variants:
    """Returns training of a language model on windows of 35 tokens."""
    training = training_settings.TrainingConfig(optimizer=optimizer_settings.SgdConfig(), learning_rate=0.1)
    config = model_settings.LanguageModelConfig(
        kind="language_model", cell=cast(Any, cell), num_layers=num_layers, hidden_size=size, embedding_size=size
    )
    ours = learner(factory.build(config, {"text": vocabulary}, None), training, precision)
    baseline = plain.LanguageModel(cell, vocabulary, size, num_layers)
    optimizer = torch.optim.SGD(baseline.parameters(), 0.1)
    tokens = torch.randint(1, vocabulary, (rows, 36), generator=torch.Generator().manual_seed(1))
    inputs_BT, targets_BT = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    content = batches.TextContent(inputs_BT, targets_BT.flatten())
    batch = batches.Batch(content, targets_BT.numel(), targets_BT.numel(), 0, 0.0)
    steps = 4

    def run_ours() -> harness.Done:
        computing.use_matmul("auto", precision)
        state = None
        for _ in range(steps):
            state = ours.train_step([batch], [state], carries_state=True).states[0]
        return harness.Done(steps * targets_BT.numel())

    def run_baseline() -> harness.Done:
        computing.use_matmul("default", "fp32")
        for _ in range(steps):
            logits_BTV, _ = baseline(inputs_BT)
            plain.step(baseline, optimizer, logits_BTV, targets_BT)
        return harness.Done(steps * targets_BT.numel())

    return {"ours": run_ours, "baseline": run_baseline}


def words(size: int) -> tokenizer.Tokenizer:
    """Returns a vocabulary of made-up words with `size` entries, reserved ones included."""
    counts = vocabulary.Counts()
    counts.add(f"w{number}" for number in range(size - RESERVED))
    return tokenizer.from_counts("word", counts, 1, None, vocabulary.RESERVED)


def sentences(num_lines: int, vocabulary_size: int) -> list[str]:
    """Returns lines of made-up words with the lengths of `Pairs`."""
    rows = Pairs(num_lines, vocabulary_size).columns["source"]
    return [" ".join(f"w{token - RESERVED}" for token in row[:-1]) for row in rows]


def translation(precision: computing.Precision) -> Variants:
    """Returns translation with beam 5: GRU 2×512, additive attention, 10,000 words.

    The bias of `<eos>` is raised so that translations have 6 to 40 tokens.
    """
    torch.manual_seed(1)
    config = model_settings.Seq2SeqConfig(
        kind="seq2seq", cell="gru", num_layers=2, attention="additive", context="input", hidden_size=512
    )
    model = factory.build(config, {"source": 10_000, "target": 10_000}, PAD)
    assert isinstance(model, seq2seq.Seq2Seq)
    with torch.no_grad():
        model.output.weight.mul_(8.0)
        model.output.bias[EOS] += 1.4
    codec = tokenizer.Codec((), words(10_000))
    packed = bundle.Bundle(model, config, {"source": codec, "target": codec}, "eos", "fp32")
    decoding = inference_settings.DecodingConfig(beam_size=5, min_length=5, max_length=40)
    ours = translator.Translator(packed, decoding, schema.ComputeConfig(precision=precision))
    lines = sentences(64, 10_000)

    def run_ours() -> harness.Done:
        computing.use_matmul("auto", precision)
        return harness.Done(sum(row.num_tokens for row in ours.translate(lines)))

    def run_baseline() -> harness.Done:
        computing.use_matmul("default", "fp32")
        sources = [[*ids, EOS] for ids in codec.encode_lines(lines[::8])]
        return harness.Done(
            sum(len(plain.beam(model, source, 5, range(6, 41), BOS, EOS, (PAD, BOS))) for source in sources)
        )

    return {"ours": run_ours, "baseline": run_baseline}


class ZipfPairs(Pairs):
    """Pairs with word frequencies as in natural language: the n-th word in proportion to 1 / (n + 2.7).

    With probability 3/4 a word is translated by the word of the same number.

    Source: Mandelbrot 1953, An informational theory of the statistical structure of language (Zipf's law with offset).
    """

    def __init__(self, num_lines: int, vocabulary_size: int) -> None:
        super().__init__(num_lines, vocabulary_size)
        rng = np.random.default_rng(2)
        size = vocabulary_size - RESERVED
        frequencies = 1 / (np.arange(1, size + 1) + 2.7)

        def random_words(length: int) -> npt.NDArray[np.int64]:
            return RESERVED + rng.choice(size, length, p=frequencies / frequencies.sum())

        rows = [(len(source), len(target)) for source, target in zip(*self.columns.values(), strict=True)]
        sources = [random_words(length - 1) for length, _ in rows]
        targets = [
            np.where(rng.random(length - 1) < 0.75, np.resize(source, length - 1), random_words(length - 1))
            for source, (_, length) in zip(sources, rows, strict=True)
        ]
        self.columns = {
            name: [np.append(row, EOS) for row in side] for name, side in (("source", sources), ("target", targets))
        }


def shortlist(precision: computing.Precision) -> Variants:
    """Returns translation with beam 5, GRU 2×512, 32,000 words with Zipfian frequencies, with and without shortlist."""
    size, pairs = 32_000, ZipfPairs(8_000, 32_000)
    torch.manual_seed(1)
    config = model_settings.Seq2SeqConfig(
        kind="seq2seq", cell="gru", num_layers=2, attention="additive", context="input", hidden_size=512
    )
    codec = tokenizer.Codec((), words(size))
    packed = bundle.Bundle(
        factory.build(config, {"source": size, "target": size}, PAD),
        config,
        {"source": codec, "target": codec},
        "eos",
        "fp32",
    )
    table = translation_table.estimate(pairs, size, size, 50)
    lines = [" ".join(f"w{token - RESERVED}" for token in row[:-1]) for row in pairs.columns["source"][:102]]
    compute = schema.ComputeConfig(precision=precision)

    def variant(settings: inference_settings.ShortlistConfig | None) -> Callable[[], harness.Done]:
        # An untrained model does not know when to end: with a fixed length both variants take as many steps.
        decoding = inference_settings.DecodingConfig(beam_size=5, min_length=19, max_length=20, shortlist=settings)
        ready = translator.Translator(packed, decoding, compute, table=table)

        def call() -> harness.Done:
            computing.use_matmul("auto", precision)
            return harness.Done(sum(row.num_tokens for row in ready.translate(lines)))

        return call

    return {"ours": variant(inference_settings.ShortlistConfig()), "baseline": variant(None)}


def scoring(precision: computing.Precision) -> Variants:
    """Returns scoring of lines: LSTM 2×650, 10,000 words."""
    config = model_settings.LanguageModelConfig(
        kind="language_model", cell="lstm", num_layers=2, hidden_size=650, embedding_size=650
    )
    model = factory.build(config, {"text": 10_000}, None)
    assert isinstance(model, language_model.LanguageModel)
    codec = tokenizer.Codec((), words(10_000))
    packed = bundle.Bundle(model, config, {"text": codec}, "eos", "fp32")
    ours = scorer.Scorer(packed, inference_settings.ScoringConfig(), schema.ComputeConfig(precision=precision))
    lines = sentences(256, 10_000)

    def run_ours() -> harness.Done:
        computing.use_matmul("auto", precision)
        return harness.Done(sum(score.num_tokens for score in ours.score_lines(lines)))

    def run_baseline() -> harness.Done:
        computing.use_matmul("default", "fp32")
        num_tokens = 0
        with torch.inference_mode():
            for ids in codec.encode_lines(lines[:64]):
                row = torch.tensor([[EOS, *ids, EOS]])
                features_BTF, _ = model(row[:, :-1], model.initial_state(1))
                F.cross_entropy(model.logits(features_BTF)[0], row[0, 1:], reduction="sum").item()
                num_tokens += row.shape[1] - 1
        return harness.Done(num_tokens)

    return {"ours": run_ours, "baseline": run_baseline}


class _Clock:
    """Callbacks that read the CPU clock after each step, when `should_stop` is called."""

    def __init__(self) -> None:
        self.read_s: list[float] = []

    def on_progress(self, now: progress.Progress) -> None:
        """Shows nothing."""

    def should_stop(self) -> bool:
        """Records the time; returns False."""
        self.read_s.append(time.process_time())
        return False

    def should_save(self) -> bool:
        """Returns False."""
        return False


def bare() -> Variants:
    """Returns training runs of a character LSTM 1×256 with run log and metrics, and the same model in a bare loop."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="raycurrent-bench-"))
    dataset = builders.text_dataset(folder / "dataset", num_train=200_000, num_valid=100)
    config = model_settings.LanguageModelConfig(kind="language_model", cell="lstm", hidden_size=256, embedding_size=256)
    training = training_settings.TrainingConfig(
        optimizer=optimizer_settings.SgdConfig(), learning_rate=0.1, max_steps=80
    )
    runs = itertools.count()
    tokens = training.num_lanes * training.window

    def run_ours() -> harness.Done:
        clock = _Clock()
        root = builders.location_of(folder / f"run-{next(runs)}")
        job = trainer.TrainingJob(root, "bench", 1, config, training, builders.FP32, dataset)
        trainer.train(job, collective.SingleProcess(), metrics.NullMetrics(), clock)
        steps_s = [after - before for before, after in itertools.pairwise(clock.read_s)]
        return harness.Done(tokens, statistics.median(steps_s))

    torch.manual_seed(1)
    model = losses.Objective(factory.build(config, {"text": 9}, None), 0.0).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    split = shards.Dataset.open(dataset).split("train")
    assert split is not None
    batch_stream = batches.SequentialLanes(split.stream(), training, 1, 0, 1)

    def run_baseline() -> harness.Done:
        computing.use_matmul("default", "fp32")
        state, steps_s = None, []
        for batch in itertools.islice(batch_stream.read_epoch(0, 0), training.max_steps):
            started_s = time.process_time()
            loss, _, state = model(batch.content, state)
            (loss / batch.num_targets).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps_s.append(time.process_time() - started_s)
        return harness.Done(tokens, statistics.median(steps_s))

    return {"ours": run_ours, "baseline": run_baseline}
