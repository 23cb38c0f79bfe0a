"""Limits of this CPU: the matrix products of a work and its largest passes alone, beside the work itself.

    python -m tests.benchmarks.limits [--only training-output …] [--rounds 3] [--data FOLDER] [--folder FOLDER]

For some rows of `make bench-peers` our side does a round of work, while the shapes of its products are recorded. Then
the same products run alone, into buffers that exist, with softmax over the same logits, the activations of the same
gates and the optimizer's pass over as many weights. No program that computes the same function in fp32 can be much
faster on this CPU, so the ratio of the two times is how much there is left to gain.
"""

import argparse
import contextlib
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from core.models import compute, seq2seq, token_loss
from tests.benchmarks import workloads
from tests.benchmarks.peers import corpora, ours, rows, sides

NAMES = ("training-output", "training-feed", "beam", "words-200", "words-650", "characters-256", "characters-512")
"""Rows with a limit; the beam needs the weights that `make bench-peers` left in the folder."""


class Shape(NamedTuple):
    """A call of the model: its kind, and the sizes that its products depend on."""

    kind: str
    sizes: tuple[int, ...]


class Plan:
    """Products and passes without the program around them; all of them share a few buffers."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], object]] = []
        self._pools: dict[str, Tensor] = {}
        self.num_operations = 0

    def run(self) -> float:
        """Computes everything once; returns the CPU-seconds."""
        return sides.timed(lambda: [call() for call in self._calls])[1]

    def product(self, m: int, k: int, n: int, count: int = 1) -> None:
        """Adds `count` products of an m × k and a k × n matrix."""
        left, right, out = self._tensor("left", m, k), self._tensor("right", n, k).t(), self._tensor("out", m, n)
        self._calls += [lambda: torch.mm(left, right, out=out)] * count
        self.num_operations += 2 * m * k * n * count

    def products(self, batch: int, m: int, k: int, n: int, count: int = 1) -> None:
        """Adds `count` batches of products."""
        sizes = (("left", batch, m, k), ("right", batch, n, k), ("out", batch, m, n))
        left, right, out = (self._tensor(*size) for size in sizes)
        self._calls += [lambda: torch.bmm(left, right.transpose(1, 2), out=out)] * count
        self.num_operations += 2 * batch * m * k * n * count

    def softmax(self, num_rows: int, size: int) -> None:
        """Adds a softmax over rows of logits, in place."""
        logits = self._tensor("out", num_rows, size)
        self._calls.append(lambda: torch.softmax(logits, dim=1, out=logits))

    def gates(self, num_rows: int, size: int) -> None:
        """Adds the activations of an LSTM: three sigmoids and two tanh of each unit."""
        parts = self._tensor("out", num_rows, 3 * size), self._tensor("left", num_rows, 2 * size)
        self._calls += [lambda: parts[0].sigmoid_(), lambda: parts[1].tanh_()]

    def optimizer(self, num_weights: int, kind: type[torch.optim.Optimizer], count: int) -> None:
        """Adds `count` steps of an optimizer over all weights as one vector, without clipping."""
        weights = torch.nn.Parameter(torch.zeros(num_weights))
        weights.grad = torch.full_like(weights, 1e-3)
        self._calls += [kind([weights], lr=0.0, fused=True).step] * count  # type: ignore[call-arg]

    def lstm(self, num_rows: int, num_steps: int, inputs: int, size: int, is_trained: bool = True) -> None:
        """Adds an LSTM layer: what does not depend on the step before is one product over all steps."""
        total, gates = num_rows * num_steps, 4 * size
        self.product(total, inputs, gates)
        self.product(num_rows, size, gates, num_steps)
        self.gates(total, size)
        if is_trained:
            self.product(num_rows, gates, size, num_steps)
            self.product(gates, total, size)
            self.product(gates, total, inputs)
            self.product(total, gates, inputs)

    def linear(self, num_rows: int, inputs: int, outputs: int, is_trained: bool = True) -> None:
        """Adds a linear layer."""
        self.product(num_rows, inputs, outputs)
        if is_trained:
            self.product(num_rows, outputs, inputs)
            self.product(outputs, num_rows, inputs)

    def loss(self, num_targets: int, size: int, vocabulary: int) -> None:
        """Adds output layer and cross entropy, in slices as the training computes them."""
        for start in range(0, num_targets, token_loss.SLICE_ROWS["cpu"]):
            num_rows = min(token_loss.SLICE_ROWS["cpu"], num_targets - start)
            self.linear(num_rows, size, vocabulary)
            self.softmax(num_rows, vocabulary)

    def _tensor(self, name: str, *sizes: int) -> Tensor:
        size = torch.Size(sizes).numel()
        pool = self._pools.get(name)
        if pool is None or pool.numel() < size:
            pool = self._pools[name] = torch.randn(size) * 0.1
        return pool[:size].view(sizes)


@contextlib.contextmanager
def recorded() -> Iterator[list[Shape]]:
    """Yields a list to which the calls of translation models add their shapes."""
    shapes: list[Shape] = []

    def recording(kind: str, function: Callable[..., Any], sizes: Callable[..., tuple[int, ...]]) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            shapes.append(Shape(kind, sizes(*arguments)))
            return function(*arguments, **named)

        return call

    model = seq2seq.Seq2Seq
    encode = recording("encode", model.encode, lambda _, source_BS, *__: tuple(source_BS.shape))
    decode = recording(
        "decode", model.decode, lambda _, inputs_BT, memory, __: (*inputs_BT.shape, memory.mask_BS.shape[1])
    )
    step = recording("step", model.step, lambda _, tokens_B, memory, __: (len(tokens_B), *memory.mask_BS.shape))
    loss = recording("loss", token_loss.summed, lambda features_NF, weight_VF, *_: (len(features_NF), len(weight_VF)))
    with (
        mock.patch.object(model, "encode", encode),
        mock.patch.object(model, "decode", decode),
        mock.patch.object(model, "step", step),
        mock.patch.object(token_loss, "summed", loss),
    ):
        yield shapes


def translation_plan(settings: sides.Settings, shapes: list[Shape], words: Mapping[str, int]) -> Plan:
    """Returns the products of calls of a translation model: bi-LSTM, LSTM, `general` attention."""
    plan, size, vocabulary = Plan(), settings["size"], words["target"]
    fed = size if settings["context"] == "feed" else 0
    is_trained = any(shape.kind == "loss" for shape in shapes)
    for kind, sizes in shapes:
        if kind == "encode":
            num_rows, length = sizes
            for _ in range(2):
                plan.lstm(num_rows, length, size, size // 2, is_trained)
            plan.linear(num_rows * length, size, size, is_trained)  # keys
        elif kind == "decode":
            num_rows, num_steps, length = sizes
            plan.lstm(num_rows, num_steps, size + fed, size)
            plan.linear(num_rows * num_steps, 2 * size, size)
            plan.products(num_rows, num_steps, size, length, count=3)
            plan.products(num_rows, num_steps, length, size, count=3)
        elif kind == "step":
            num_rows, num_lines, length = sizes
            plan.lstm(num_rows, 1, size + fed, size, is_trained=False)
            plan.linear(num_rows, 2 * size, size, is_trained=False)
            plan.products(num_lines, num_rows // num_lines, size, length)
            plan.products(num_lines, num_rows // num_lines, length, size)
            plan.linear(num_rows, size, vocabulary, is_trained=False)
            plan.softmax(num_rows, vocabulary)
        else:
            plan.loss(sizes[0], size, sizes[1])
    if is_trained:
        # Both embeddings and the output layer; the rest is less than a tenth.
        plan.optimizer((words["source"] + 2 * vocabulary) * size, torch.optim.Adam, settings["steps"])
    return plan


def language_plan(settings: sides.Settings, vocabulary: int) -> Plan:
    """Returns the products of a language model's training steps; those of one-hot input could be look-ups of rows."""
    plan, lanes, window = Plan(), settings["lanes"], settings["window"]
    below, num_weights = settings["embedding_size"], vocabulary * settings["sizes"][-1]
    if settings["model"].get("input") == "one_hot":
        below = 0
    for _ in range(settings["steps"]):
        inputs = below
        for size in settings["sizes"]:
            plan.lstm(lanes, window, inputs, size)
            inputs = size
        plan.loss(lanes * window, inputs, vocabulary)
    for inputs, size in itertools.pairwise([below, *settings["sizes"]]):
        num_weights += 4 * size * (inputs + size)
    plan.optimizer(num_weights, torch.optim.SGD, settings["steps"])
    return plan


def measure(row: rows.Row, folder: pathlib.Path, data: pathlib.Path | None, num_rounds: int) -> str:
    """Returns a line of the table: our rate, that of the products and passes alone, and the median of their ratios."""
    assert row.corpus is not None
    with tempfile.TemporaryDirectory(prefix="rc-limits-") as work_folder:
        corpus = corpora.write(row.corpus, folder, data)
        places = {"corpus": str(corpus), "weights": str(folder / f"{corpus.name}-model"), "work_folder": work_folder}
        settings = {**row.settings, "precision": "fp32", **places}
        run: sides.Run = getattr(ours, row.ours.partition(":")[2])(settings)
        words = {}
        if row.corpus == "pairs":
            files = {side: corpus / f"vocabulary.{side}" for side in corpora.SIDES}
            words = {side: len(corpora.read_lines(file)) + workloads.RESERVED for side, file in files.items()}
        run()  # to warm up
        measured = []
        for _ in range(num_rounds):
            with recorded() as shapes:
                done, cpu_s = sides.timed(run)
            if words:
                plan = translation_plan(settings, shapes, words)
            else:
                plan = language_plan(settings, settings["vocabulary_size"])
            plan.run()
            measured.append((done.amount, done.cpu_s or cpu_s, plan.run(), plan.num_operations))
    rate, limit = (statistics.median(amount / times[index] for amount, *times in measured) for index in (0, 1))
    shares = [limit_s / cpu_s for _, cpu_s, limit_s, _ in measured]
    speed = statistics.median(number / limit_s / 1e9 for _, _, limit_s, number in measured)
    share = f"{statistics.median(shares):.0%} ({min(shares):.0%}, {max(shares):.0%})"
    return f"| {row.title} | {rate:,.0f} | {limit:,.0f} | {share} | {speed:.0f} |"


def main() -> None:
    """Measures the rows that the command line names, and prints a Markdown table."""
    by_name: Mapping[str, rows.Row] = {row.name: row for row in rows.ROWS if row.name in NAMES}
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.limits", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES, help="rows; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=pathlib.Path, default=os.environ.get("RAYCURRENT_TEST_DATA"))
    parser.add_argument("--folder", type=pathlib.Path, default=sides.REPOSITORY / ".venv" / "peers")
    arguments = parser.parse_args()
    data = pathlib.Path(arguments.data) if arguments.data else None
    compute.set_threads(1)
    torch.manual_seed(1)
    head = "| work, per CPU-second | ours | products and passes alone | share of the limit | GFLOP/s of the limit |"
    sys.stdout.write(f"{head}\n| --- | --- | --- | --- | --- |\n")
    for name in arguments.only:
        sys.stdout.write(measure(by_name[name], arguments.folder.resolve(), data, arguments.rounds) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
