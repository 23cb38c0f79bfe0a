"""Several corpora on one model: their shares of a batch, their gradients, and a resume with the same bits."""

import dataclasses
import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core import errors
from core.config import multitask_settings
from core.data.dataset import shards
from core.reporting import training_history
from core.storage import location
from core.telemetry import metrics
from core.training import batches, collective, multitask, resume, trainer, validation
from tests.core.training import builders

PCGRAD = {"projection": "pcgrad", "record_cosines": True}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> location.Location:
    """A long stream and one of a third of its length."""
    folder = tmp_path_factory.mktemp("text")
    long, short = builders.text_dataset(folder / "long"), builders.text_dataset(folder / "short", 150, 40)
    return builders.several(folder / "both", long=long, short=short)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> location.Location:
    folder = tmp_path_factory.mktemp("pairs")
    many, few = builders.pairs_dataset(folder / "many"), builders.pairs_dataset(folder / "few", 25, 6)
    return builders.several(folder / "both", many=many, few=few)


def _gradients(*rows: list[float]) -> list[list[torch.Tensor]]:
    """Each in two parts, as of two weights."""
    return [[torch.tensor(row[:1]), torch.tensor(row[1:])] for row in rows]


def _flat(gradient: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in gradient])


def test_pcgrad_of_two_corpora_worked_by_hand() -> None:
    """A = (1, 0), B = (−1, 1): the cosine is −1/√2; A keeps (½, ½), B keeps (0, 1)."""
    corpus_gradients = _gradients([1.0, 0.0], [-1.0, 1.0])
    table = multitask.inner_products(corpus_gradients)
    assert table == [[1.0, -1.0], [-1.0, 2.0]]
    assert multitask.cosines(table) == {(0, 1): pytest.approx(-1 / math.sqrt(2))}
    rows = multitask.pcgrad_factors(table, 1)
    assert rows == [[1.0, 0.5], [1.0, 1.0]]
    left = [_flat(multitask.weighted_sum(corpus_gradients, row)).tolist() for row in rows]
    assert left == [[0.5, 0.5], [0.0, 1.0]]
    surgery = multitask.Surgery(True, True, (frozenset(), frozenset()), 1)
    combined = multitask.combine(corpus_gradients, surgery, 0)
    assert _flat(combined.gradient).tolist() == [0.5, 1.5]
    plain = multitask.combine(corpus_gradients, surgery._replace(projects=False), 0)
    assert _flat(plain.gradient).tolist() == [0.0, 1.0]


def test_pcgrad_leaves_gradients_without_conflict_unchanged() -> None:
    corpus_gradients = _gradients([1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [0.5, 0.0, 0.0])
    rows = multitask.pcgrad_factors(multitask.inner_products(corpus_gradients), 3)
    assert rows == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert multitask.cosines([[0.0, 0.0], [0.0, 1.0]]) == {}


def test_pcgrad_matches_the_algorithm_of_the_paper() -> None:
    """Vector by vector, as in algorithm 1, for some order of the others; two gradients do not conflict afterwards."""
    for seed in range(30):
        chance = torch.Generator().manual_seed(seed)
        rows_KP = torch.randn(3, 7, generator=chance, dtype=torch.float64)
        factors = multitask.pcgrad_factors((rows_KP @ rows_KP.T).tolist(), seed)
        for index in range(3):
            others = [other for other in range(3) if other != index]
            expected = [_plainly(rows_KP, index, order) for order in itertools.permutations(others)]
            ours = torch.tensor(factors[index], dtype=torch.float64) @ rows_KP
            assert any(torch.allclose(ours, wanted) for wanted in expected)
        pair = rows_KP[:2]
        first, second = (
            torch.tensor(multitask.pcgrad_factors((pair @ pair.T).tolist(), seed), dtype=torch.float64) @ pair
        )
        assert float(first @ pair[1]) > -1e-9
        assert float(second @ pair[0]) > -1e-9


def _plainly(rows_KP: torch.Tensor, index: int, order: tuple[int, ...]) -> torch.Tensor:
    left = rows_KP[index].clone()
    for other in order:
        against = left @ rows_KP[other]
        if against < 0:
            left -= against / rows_KP[other].square().sum() * rows_KP[other]
    return left


def test_the_order_of_projections_depends_on_the_key() -> None:
    """Three gradients in a plane, each against the others: what is left depends on the order."""
    table = [[1.0, -0.5, -0.5], [-0.5, 1.0, -0.4], [-0.5, -0.4, 1.0]]
    results = {repr(multitask.pcgrad_factors(table, key)) for key in range(40)}
    assert len(results) == 8


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (10, [1, 1], [5, 5]),
        (32, [3, 1], [24, 8]),
        (10, [1, 1, 1], [4, 3, 3]),
        (7, [1000, 1], [6, 1]),
        (1, [1, 1], [1, 1]),
    ],
)
def test_batch_shares_are_by_weight_and_none_is_empty(total: int, weights: list[float], expected: list[int]) -> None:
    assert multitask_settings.shares(total, weights) == expected


def test_batch_shares_are_within_one_of_the_exact_share() -> None:
    chance = random.Random(1)
    for _ in range(200):
        weights = [chance.uniform(0.1, 5) for _ in range(chance.randint(1, 6))]
        total = chance.randint(200, 900)
        shares = multitask_settings.shares(total, weights)
        assert sum(shares) == total
        assert all(
            abs(share - total * weight / sum(weights)) < 1 for share, weight in zip(shares, weights, strict=True)
        )


def test_corpus_weights_decide_the_share_of_each_batch(pairs: location.Location) -> None:
    dataset = shards.Dataset.open(pairs)
    training = builders.job(Path("/x"), pairs, builders.PAIRS, batch_tokens=80).training
    batch_streams = batches.open_batch_streams(dataset, training, [3.0, 1.0], 1, 0, 1)
    for number, budget in enumerate((60, 20)):
        every = list(batch_streams[number].read_epoch(0, 0))[:-1]
        sizes = [max(batch.num_targets, int(batch.content.source_lengths_B.sum())) for batch in every]  # type: ignore[union-attr]
        assert budget * 0.6 < sum(sizes) / len(sizes)
        assert max(sizes) <= budget


def test_a_run_of_one_named_corpus_is_a_plain_run_to_the_bit(tmp_path: Path) -> None:
    for name, dataset, model in (
        ("text", builders.text_dataset(tmp_path / "a"), builders.TEXT),
        ("pairs", builders.pairs_dataset(tmp_path / "b"), builders.PAIRS),
    ):
        named = builders.several(tmp_path / f"{name}-named", only=dataset)
        for root, folder in (("plain", dataset), ("named", named)):
            builders.train(builders.job(tmp_path / root / name, folder, model, accumulate=2))
        assert builders.digest(tmp_path / "plain" / name) == builders.digest(tmp_path / "named" / name)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("text", {"multitask": PCGRAD}),
        ("text", {"accumulate": 2, "truncation": {"kind": "variable"}}),
        ("pairs", {"multitask": {**PCGRAD, "detached": {"few": ("encoder",)}}, "accumulate": 2}),
        ("pairs", {"label_smoothing": 0.1}),
    ],
)
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(
    tmp_path: Path, text: location.Location, pairs: location.Location, kind: str, settings: dict[str, Any]
) -> None:
    wet = {"dropout": 0.3, "embedding_dropout": 0.2, "output_dropout": 0.3, "num_layers": 2}
    model = (builders.TEXT if kind == "text" else builders.PAIRS).model_copy(update=wet)
    job = builders.job(tmp_path / "whole", text if kind == "text" else pairs, model, **{"epochs": 2, **settings})
    job = dataclasses.replace(job, weights={"long": 2.0, "short": 1.0})
    whole = builders.train(job)
    stopped = dataclasses.replace(job, root=builders.location_of(tmp_path / "stopped"))
    assert all(builders.train(stopped, after).is_interrupted for after in (2, 1, 1, 2, 1))
    assert builders.train(stopped).step == whole.step
    assert builders.digest(tmp_path / "stopped") == builders.digest(tmp_path / "whole")
    rows, again = (training_history.read(builders.location_of(tmp_path / root)) for root in ("whole", "stopped"))
    for row, other in zip(rows, again, strict=True):
        assert other.get("cosines") == row.get("cosines")
        for name, figures in row.get("tasks", {}).items():
            numbers = {key: value for key, value in figures.items() if not isinstance(value, str)}
            assert {key: other["tasks"][name][key] for key in numbers} == pytest.approx(numbers, rel=1e-6)


def test_detached_parts_get_no_gradient_from_a_corpus(tmp_path: Path, pairs: location.Location) -> None:
    """With both corpora detached the encoder keeps its initial weights; with one, it learns from the other alone."""

    def trained(name: str, detached: dict[str, tuple[str, ...]]) -> dict[str, torch.Tensor]:
        settings: dict[str, Any] = {"optimizer": {"kind": "sgd"}, "clip_norm": None, "max_steps": 1}
        settings["multitask"] = {"detached": detached, "record_cosines": True}
        job = builders.job(tmp_path / name, pairs, builders.PAIRS, **settings)
        group = collective.SingleProcess()
        dataset = shards.Dataset.open(pairs)
        run = resume.build(job, resume.claim(job, dataset, 1), dataset, group)
        model = run.learner.objective.model
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        loop = trainer._TrainingLoop(job, run, group, metrics.NullMetrics(), builders.Watch(), validation.LossOnly())
        loop.run_to_end()
        return {key: value.detach() - before[key] for key, value in model.named_parameters()}

    free = trained("free", {})
    without_many, without_few = trained("one", {"many": ("encoder",)}), trained("other", {"few": ("encoder",)})
    both = trained("both", {"many": ("encoder",), "few": ("encoder",)})
    for name, change in free.items():
        if name.startswith("encoder."):
            assert float(change.abs().sum()) > 0
            assert float(both[name].abs().sum()) == 0
            torch.testing.assert_close(without_many[name] + without_few[name], change, rtol=1e-3, atol=1e-7)
        else:
            torch.testing.assert_close(both[name], change)


def test_the_run_log_has_figures_by_corpus(tmp_path: Path, text: location.Location) -> None:
    recorded = metrics.InMemoryMetrics()
    job = builders.job(tmp_path, text, log_every_steps=2, multitask=PCGRAD)
    trainer.train(job, collective.SingleProcess(), recorded, builders.Watch())
    rows = training_history.read(builders.location_of(tmp_path))
    steps = [row for row in rows if row["kind"] == "step"]
    for row in steps:
        sums = [
            (figures["nll_nats"] * figures["num_targets"], figures["num_targets"]) for figures in row["tasks"].values()
        ]
        mean = sum(nll for nll, _ in sums) / sum(count for _, count in sums)
        assert row["perplexity"] == pytest.approx(math.exp(mean))
        assert set(row["tasks"]) == {"long", "short"}
        assert -1 <= row["cosines"]["long/short"] <= 1
    validation_row = next(row for row in rows if row["kind"] == "validation")
    assert (
        validation_row["tasks"]["long"]["num_tokens"] + validation_row["tasks"]["short"]["num_tokens"]
        == validation_row["num_tokens"]
    )
    names = {(name, labels.get("corpus")) for name, _, labels in recorded.calls}
    assert {("raycurrent_train_corpus_loss_nats", "0"), ("raycurrent_train_corpus_loss_nats", "1")} <= names
    assert ("raycurrent_train_gradient_cosine", None) in names


@pytest.mark.parametrize(
    ("detached", "match"),
    [
        ({"other": ("encoder",)}, "detached: other is not a corpus of this dataset; it has many, few"),
        ({"many": ("encode",)}, "no weight's name begins with 'encode'; they begin with encoder, decoder"),
        ({"many": ("a", "b")}, "nothing is left to train"),
    ],
)
def test_detaching_an_unknown_part_is_refused(detached: dict[str, tuple[str, ...]], match: str) -> None:
    parts = ("encoder", "decoder") if "encode" in detached.get("many", ()) else ("a", "b")
    model = nn.ModuleDict({part: nn.Linear(2, 2) for part in parts})
    training = builders.job(Path("/x"), builders.location_of(Path("/x")), multitask={"detached": detached}).training
    with pytest.raises(errors.UsageError, match=match):
        multitask.plan(model, training, ["many", "few"], 1)


@pytest.mark.ddp
def test_loss_and_cosines_do_not_depend_on_the_number_of_ranks(
    tmp_path: Path, text: location.Location, pairs: location.Location
) -> None:
    settings: dict[str, Any] = {"log_every_steps": 1, "epochs": 50, "max_steps": 30, "multitask": PCGRAD}

    def jobs(world_size: int) -> list[tuple[trainer.TrainingJob, None]]:
        root = tmp_path / str(world_size)
        return [
            (builders.job(root / "text", text, **settings), None),
            (builders.job(root / "pairs", pairs, builders.PAIRS, accumulate=2, **settings), None),
        ]

    for job, _ in jobs(1):
        builders.train(job)
    builders.on_ranks(2, tmp_path, builders.train_rank, jobs(2))
    for name in ("text", "pairs"):
        alone, together = (training_history.read(builders.location_of(tmp_path / size / name)) for size in ("1", "2"))
        for row, other in zip(alone, together, strict=True):
            if row["kind"] != "step":
                continue
            assert other["loss_nats"] == pytest.approx(row["loss_nats"], rel=1e-5)
            assert other["cosines"] == pytest.approx(row["cosines"], rel=1e-3, abs=1e-5)
            assert other["gradient_norm"] == pytest.approx(row["gradient_norm"], rel=1e-4)


@pytest.mark.ddp
def test_two_ranks_resume_several_corpora_with_the_same_bits(tmp_path: Path, text: location.Location) -> None:
    runs = [
        (builders.job(tmp_path / name, text, epochs=2, multitask=PCGRAD), stop)
        for name, stops in (("whole", [None]), ("stopped", [5, 3, None]))
        for stop in stops
    ]
    builders.on_ranks(2, tmp_path, builders.train_rank, runs)
    assert builders.digest(tmp_path / "stopped") == builders.digest(tmp_path / "whole")
