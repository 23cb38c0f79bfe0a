"""Several ranks: the loss curves of one rank, agreement, and a resume with the same bits."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from core import errors
from core.models import factory
from core.reporting import training_history
from core.telemetry import metrics
from core.training import batches, collective, gradients, losses, optimizers, step, trainer
from tests.core.training import builders

pytestmark = pytest.mark.ddp


def _losses(root: Path, name: str = "loss_nats") -> list[float]:
    return [row[name] for row in training_history.read(builders.location_of(root)) if name in row]


def test_loss_curves_do_not_depend_on_the_number_of_ranks(tmp_path: Path) -> None:
    text = builders.text_dataset(tmp_path / "text", num_train=1500)
    pairs = builders.pairs_dataset(tmp_path / "pairs")
    settings: dict[str, Any] = {"log_every_steps": 1, "epochs": 50, "max_steps": 100}

    def jobs(world_size: int) -> list[tuple[trainer.TrainingJob, None]]:
        root = tmp_path / str(world_size)
        # Batches of one pair leave ranks without a share.
        return [
            (builders.job(root / "text", text, **settings), None),
            (builders.job(root / "pairs", pairs, builders.PAIRS, **settings), None),
            (builders.job(root / "few", pairs, builders.PAIRS, batch_tokens=9, accumulate=2, **settings), None),
        ]

    for job, _ in jobs(1):
        builders.train(job)
    for world_size in (2, 3):
        builders.on_ranks(world_size, tmp_path, builders.train_rank, jobs(world_size))
        for name in ("text", "pairs", "few"):
            for column in ("loss_nats", "nll_nats", "gradient_norm"):
                alone = _losses(tmp_path / "1" / name, column)
                assert _losses(tmp_path / str(world_size) / name, column) == pytest.approx(alone, rel=1e-5)
                assert len(alone) >= (1 if column == "nll_nats" else 100)


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_run_stopped_twice_in_an_epoch_ends_with_the_same_bits(tmp_path: Path, world_size: int) -> None:
    text = builders.text_dataset(tmp_path / "text")
    pairs = builders.pairs_dataset(tmp_path / "pairs")
    wet_text = builders.TEXT.model_copy(update={"dropout": 0.3, "output_dropout": 0.3, "num_layers": 2})
    wet_pairs = builders.PAIRS.model_copy(update={"embedding_dropout": 0.3})
    runs = []
    for name, stops in (("whole", [None]), ("stopped", [16, 3, 4, None])):
        for stop in stops:
            runs.append((builders.job(tmp_path / name / "text", text, wet_text, epochs=3), stop))
            runs.append((builders.job(tmp_path / name / "pairs", pairs, wet_pairs, epochs=4), stop))
    builders.on_ranks(world_size, tmp_path, builders.train_rank, runs)
    for kind in ("text", "pairs"):
        assert builders.digest(tmp_path / "stopped" / kind) == builders.digest(tmp_path / "whole" / kind)
        assert len(list((tmp_path / "stopped" / kind / "epochs").iterdir())) == 4


def test_a_run_resumes_with_more_or_fewer_ranks(tmp_path: Path) -> None:
    text = builders.text_dataset(tmp_path / "text")
    settings: dict[str, Any] = {"epochs": 3, "log_every_steps": 1}
    builders.train(builders.job(tmp_path / "whole", text, **settings))
    changing = builders.job(tmp_path / "changing", text, **settings)
    builders.train(changing, stop_after=7)
    builders.on_ranks(3, tmp_path, builders.train_rank, [(changing, 5)])
    builders.train(changing)
    assert _losses(tmp_path / "changing") == pytest.approx(_losses(tmp_path / "whole"), rel=1e-5)


def _check_sum(rank: int, group: collective.Collective) -> None:
    """The gradient of two ranks with unequal shares, accumulated, is that of one rank with all rows."""
    content = [
        batches.TextContent(torch.tensor([[row, row + 1, row + 2]]), torch.tensor([row + 1, row + 2, row + 3]))
        for row in range(3)
    ]

    def learner(group: collective.Collective, limits: gradients.Limits) -> step.Learner:
        torch.manual_seed(0)
        learned = losses.Objective(factory.build(builders.TEXT, {"text": 9}, None))
        training = builders.job(
            Path("/x"), builders.location_of(Path("/x")), optimizer={"kind": "sgd"}, learning_rate=1.0
        ).training
        replica = step.replicate(learned, group)
        assert isinstance(replica, DistributedDataParallel) == (group.world_size > 1)
        optimizer = optimizers.build(learned.model, training)
        made = step.Learner(learned, replica, optimizer, torch.device("cpu"), "fp32", limits)
        made.warm_up(batches.make_placeholder("text"))
        return made

    shares = [[content[0], content[1]], [content[2]]][rank]
    micro = [batches.Batch(rows, 9, 3, 0, 0.0) for rows in shares]
    if rank:
        micro.append(batches.Batch(batches.make_placeholder("text"), 0, 0, 0, 0.0))
    else:
        micro[1] = micro[1]._replace(num_targets=0)
    whole = [batches.Batch(rows, 3, 3, 0, 0.0) for rows in content]
    norms = set()
    # The limits are below the norms; the gradient of two ranks is clipped once, after it is summed.
    for limits in (
        gradients.Limits(),
        gradients.Limits(0.1),
        gradients.Limits(0.05, by_layer=True),
        gradients.Limits(clip_value=0.01),
    ):
        shared, single = learner(group, limits), learner(collective.SingleProcess(), limits)
        together, alone = (
            made.train_step(micro_batches, [None], False) for made, micro_batches in ((shared, micro), (single, whole))
        )
        assert float(together.gradient_norm) == pytest.approx(float(alone.gradient_norm), rel=1e-6)
        norms.add(round(float(alone.gradient_norm), 5))
        sums = together.sums_K3.clone()
        group.sum_(sums, "a test")
        torch.testing.assert_close(sums, alone.sums_K3)
        for weight, expected in zip(shared.objective.parameters(), single.objective.parameters(), strict=True):
            torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-7)
    assert len(norms) == 1, "the reported norm is the one before clipping"
    assert norms.pop() > 0.1


def _check_agreement(rank: int, group: collective.Collective) -> None:
    assert group.largest(7 * (rank == 1), "a number") == 7
    assert group.broadcast(f"from {rank}", "a word") == "from 0"
    assert group.gather(rank * 10, "numbers") == ([0, 10] if rank == 0 else None)
    dist.barrier()

    def fail() -> str:
        assert rank == 0, "only the first rank is asked"
        raise errors.StorageError("disk: is full; make room")

    with pytest.raises(errors.StorageError, match="is full"):
        collective.on_rank_0(group, "a write", fail)


def _check_save(rank: int, group: collective.Collective, job: trainer.TrainingJob) -> None:
    """Rank 0 alone is asked whether to save, and all ranks do."""
    hooks = builders.Watch(stop_after=6, save_after=[4] if rank == 0 else [1, 2, 3])
    saving = dataclasses.replace(job, root=job.root.join("saving"))
    summary = trainer.train(saving, group, metrics.NullMetrics(), hooks)
    assert (summary.step, summary.is_interrupted) == (6, True)
    dist.barrier()
    assert sorted(path.name for path in saving.root.join("checkpoints").path.iterdir()) == [
        "step-00000004-e1",
        "step-00000006-e1",
    ]


def _check_skips(rank: int, group: collective.Collective, job: trainer.TrainingJob) -> None:
    """One rank's loss is not a number in two steps, then in three: all skip, and all end."""
    train_step = step.Learner.train_step
    bad = {3, 4, 8, 9, 10}
    done = 0

    def spoiled(self: step.Learner, *arguments: Any, **named: Any) -> step.StepResult:
        nonlocal done
        done += 1
        bias = self.objective.model.output_bias_V
        kept = bias.detach().clone()
        if done in bad and rank == 1:
            bias.data.fill_(float("nan"))
        before = [
            parameter.detach().clone() for parameter in self.objective.model.parameters() if parameter is not bias
        ]
        outcome = train_step(self, *arguments, **named)
        if done in bad:
            after = [parameter for parameter in self.objective.model.parameters() if parameter is not bias]
            assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
            assert not outcome.is_applied
            bias.data.copy_(kept)
        return outcome

    step.Learner.train_step = spoiled  # type: ignore[method-assign]
    recorded = metrics.InMemoryMetrics()
    with pytest.raises(errors.DivergedError, match=r"step 10: .*3 steps in a row.*step-00000006-e1"):
        trainer.train(job, group, recorded, builders.Watch())
    skipped = sum(value for name, value, _ in recorded.calls if name == "raycurrent_train_nonfinite_steps_total")
    assert skipped == (5 if rank == 0 else 0)


def _all_checks(rank: int, group: collective.Collective, job: trainer.TrainingJob) -> None:
    _check_agreement(rank, group)
    _check_sum(rank, group)
    _check_save(rank, group, job)
    _check_skips(rank, group, job)


def test_two_ranks_agree_sum_gradients_save_and_skip_together(tmp_path: Path) -> None:
    text = builders.text_dataset(tmp_path / "text")
    job = builders.job(tmp_path / "run", text, checkpoint_every_steps=6)
    builders.on_ranks(2, tmp_path, _all_checks, dataclasses.replace(job))
