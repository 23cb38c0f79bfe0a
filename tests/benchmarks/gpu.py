"""Throughput on a GPU: our training steps against bare loops over cuDNN, and translation (`make bench-gpu`).

Each row is tokens a second of wall time, medians of rounds in which the variants take turns; a round ends when the
device has done its work. `--device cpu` runs small sizes, to try the program where there is no GPU.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from core.config import inference_settings, model_settings, optimizer_settings, schema, training_settings
from core.data.tokens import tokenizer
from core.decoding.translation import translator
from core.models import bundle, compute, factory
from core.training import batches, gradients, losses, optimizers, step
from tests.benchmarks import plain, workloads

ROUNDS, STEPS = 5, 10
WINDOW = 35


class Size(NamedTuple):
    """Size of a workload.

    Attributes:
        layers: number of recurrent layers, of the encoder and of the decoder.
        units: width of layers and embeddings.
        vocabulary: number of tokens.
        rows: of a batch.
        length: tokens of a row.
    """

    layers: int
    units: int
    vocabulary: int
    rows: int
    length: int = WINDOW


# Zaremba et al. 2014, "Recurrent Neural Network Regularization": the medium and the large model.
LANGUAGE = {"LM, LSTM 2×650": Size(2, 650, 10_000, 80), "LM, LSTM 2×1500": Size(2, 1500, 33_278, 80)}
# Wu et al. 2016, "Google's Neural Machine Translation System": its width and vocabulary, four layers as in its code.
TRANSLATION = {"seq2seq, LSTM 4×1024, attention (GNMT)": Size(4, 1024, 32_000, 128, 50)}
SMALL = Size(1, 32, 200, 4, 8)


class AttentionSeq2Seq(nn.Module):
    """Encoder and decoder in one call of cuDNN each, with attention over the decoder's outputs.

    Source: Luong et al. 2015, Effective Approaches to Attention-based Neural Machine Translation, section 3 (without
    input feeding).
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.source = nn.Embedding(size.vocabulary, size.units)
        self.target = nn.Embedding(size.vocabulary, size.units)
        self.encoder = nn.LSTM(size.units, size.units, size.layers, batch_first=True)
        self.decoder = nn.LSTM(size.units, size.units, size.layers, batch_first=True)
        self.key = nn.Linear(size.units, size.units, bias=False)
        self.combined = nn.Linear(2 * size.units, size.units, bias=False)
        self.output = nn.Linear(size.units, size.vocabulary)

    def forward(self, source_BS: torch.Tensor, inputs_BT: torch.Tensor) -> torch.Tensor:
        """Returns the logits of the next tokens."""
        values_BSH, state = self.encoder(self.source(source_BS))
        outputs_BTH, _ = self.decoder(self.target(inputs_BT), state)
        weights_BTS = torch.softmax(outputs_BTH @ self.key(values_BSH).mT, -1)
        logits_BTV: torch.Tensor = self.output(
            torch.tanh(self.combined(torch.cat((weights_BTS @ values_BSH, outputs_BTH), -1)))
        )
        return logits_BTV


Steps = Callable[[], int]


def main() -> None:
    """Measures each workload in fp32 and bf16 and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    device = torch.device(parser.parse_args().device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench-gpu: there is no GPU; --device cpu tries the program with small sizes")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, small sizes"
    sys.stdout.write(f"{name}, torch {torch.__version__}\n\n")
    sys.stdout.write("| workload | ours, tokens/s | bare loop, tokens/s | ratio |\n| --- | --- | --- | --- |\n")
    for precision in ("fp32", "bf16"):
        if precision == "bf16" and device.type == "cpu" and not compute.this_cpu().has_bf16:
            continue
        typed = compute.resolve_precision("fp32" if precision == "fp32" else "bf16", str(device))
        for title, size in LANGUAGE.items():
            _write(f"{title}, {precision}", _language(_sized(size, device), device, typed), device)
        for title, size in TRANSLATION.items():
            _write(f"{title}, {precision}", _pairs(_sized(size, device), device, typed), device)
        _write(f"translation, beam 5, GRU 2×512, {precision}", {"ours": _translation(device, typed)}, device)


def _sized(size: Size, device: torch.device) -> Size:
    return size if device.type == "cuda" else SMALL


def _write(title: str, variants: Mapping[str, Steps], device: torch.device) -> None:
    rates = _rates(variants, device)
    bare = rates.get("bare")
    cells = ("", "") if bare is None else (f"{bare:,.0f}", f"{rates['ours'] / bare:.2f} ×")
    sys.stdout.write(f"| {title} | {rates['ours']:,.0f} | {cells[0]} | {cells[1]} |\n")
    sys.stdout.flush()


def _rates(variants: Mapping[str, Steps], device: torch.device) -> dict[str, float]:
    """Returns the median tokens per second of each variant."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    measured: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(ROUNDS + 1):
        for name, run in variants.items():
            wait()
            started_s = time.perf_counter()
            num_tokens = run()
            wait()
            if number:  # the first round prepares kernels
                measured[name].append(num_tokens / (time.perf_counter() - started_s))
    return {name: statistics.median(values) for name, values in measured.items()}


def _ours(
    config: Any, sizes: Mapping[str, int], batch: batches.Batch, device: torch.device, precision: compute.Precision
) -> Steps:
    """Returns training steps of ours: SGD, clipped by the norm."""
    training = training_settings.TrainingConfig(
        optimizer=optimizer_settings.SgdConfig(), learning_rate=0.1, clip_norm=5.0
    )
    learned = losses.build(factory.build(config, dict(sizes), workloads.PAD), training).to(device).train()
    optimizer = optimizers.build(learned.model, training)
    learner = step.Learner(learned, learned, optimizer, device, precision, gradients.limits(training))

    def run() -> int:
        for _ in range(STEPS):
            learner.train_step([batch], [None], carries_state=False)
        return STEPS * batch.num_targets

    return run


def _bare(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], targets_N: torch.Tensor, device: torch.device, precision: str
) -> Steps:
    """Returns training steps of a plain loop, with the same optimizer and clipping."""
    model = model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    moved = tuple(each.to(device) for each in inputs)
    targets_N = targets_N.to(device)

    def run() -> int:
        for _ in range(STEPS):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = nn.functional.cross_entropy(model(*moved).flatten(0, 1), targets_N)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            optimizer.zero_grad()
        return STEPS * len(targets_N)

    return run


def _language(size: Size, device: torch.device, precision: compute.Precision) -> Mapping[str, Steps]:
    config = model_settings.LanguageModelConfig(
        kind="language_model", cell="lstm", num_layers=size.layers, hidden_size=size.units, embedding_size=size.units
    )
    tokens = _tokens(size, size.length + 1)
    inputs_BT, targets_N = tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()
    batch = batches.Batch(batches.TextContent(inputs_BT, targets_N), len(targets_N), len(targets_N), 0, 0.0)

    class Bare(plain.LanguageModel):
        def forward(self, inputs_BT: torch.Tensor, state: object = None) -> Any:
            return super().forward(inputs_BT, state)[0]

    return {
        "ours": _ours(config, {"text": size.vocabulary}, batch, device, precision),
        "bare": _bare(
            Bare("lstm", size.vocabulary, size.units, size.layers), (inputs_BT,), targets_N, device, precision
        ),
    }


def _pairs(size: Size, device: torch.device, precision: compute.Precision) -> Mapping[str, Steps]:
    config = model_settings.Seq2SeqConfig(
        kind="seq2seq",
        cell="lstm",
        num_layers=size.layers,
        attention="general",
        context="output",
        hidden_size=size.units,
        embedding_size=size.units,
    )
    source_BS, inputs_BT, targets_BT = (_tokens(size, size.length, seed) for seed in range(3))
    lengths_B = torch.full((size.rows,), size.length)
    targets_N = targets_BT.flatten()
    content = batches.PairsContent(source_BS, lengths_B, inputs_BT, torch.arange(len(targets_N)), targets_N)
    batch = batches.Batch(content, len(targets_N), len(targets_N), 0, 0.0)
    sizes = {"source": size.vocabulary, "target": size.vocabulary}
    return {
        "ours": _ours(config, sizes, batch, device, precision),
        "bare": _bare(AttentionSeq2Seq(size), (source_BS, inputs_BT), targets_N, device, precision),
    }


def _tokens(size: Size, length: int, seed: int = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(workloads.RESERVED, size.vocabulary, (size.rows, length), generator=random)


def _translation(device: torch.device, precision: compute.Precision) -> Steps:
    small = device.type != "cuda"
    vocabulary_size, units, num_lines = (300, 16, 8) if small else (10_000, 512, 512)
    torch.manual_seed(1)
    config = model_settings.Seq2SeqConfig(
        kind="seq2seq", cell="gru", num_layers=2, attention="additive", context="input", hidden_size=units
    )
    model = factory.build(config, {"source": vocabulary_size, "target": vocabulary_size}, workloads.PAD)
    codec = tokenizer.Codec((), workloads.words(vocabulary_size))
    packed = bundle.Bundle(model, config, {"source": codec, "target": codec}, "eos", "fp32")
    # An untrained model does not know when to end.
    decoding = inference_settings.DecodingConfig(beam_size=5, min_length=19, max_length=20)
    ready = translator.Translator(packed, decoding, schema.ComputeConfig(precision=precision), str(device))
    lines = list(itertools.islice(itertools.cycle(workloads.sentences(num_lines, vocabulary_size)), num_lines))
    return lambda: sum(row.num_tokens for row in ready.translate(lines))


if __name__ == "__main__":
    main()
