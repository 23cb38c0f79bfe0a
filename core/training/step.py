"""One optimiser step: forward and backward over micro-batches, one all-reduce, clipping, one update."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.models import compute
from core.models import state as states
from core.training import batches, collective, gradients, losses, multitask


class Outcome(NamedTuple):
    """What a step did; the sums are this rank's and stay on the device.

    `norm` is that of the gradient of all ranks before clipping. A step whose norm is not finite is not applied: all
    ranks have the same sum, so all leave it out together, and the state starts from zero again. `layer_norms` are
    those before clipping too, if they are recorded, and so are `cosines`, by pairs of tasks. `states` has one of each
    task.
    """

    sums_K2: Tensor  # by task the loss that is minimised, and the negative log-likelihood
    norm: float
    is_applied: bool
    states: tuple[states.State | None, ...]
    layer_norms: Mapping[str, float]
    cosines: Mapping[tuple[int, int], float]


@dataclass(frozen=True)
class Learner:
    """What a step works on. `replica` is the objective, wrapped by DDP where there are several ranks.

    With `surgery` the gradients of tasks are computed apart from each other; else all micro-batches are one batch.
    """

    objective: losses.Objective
    replica: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    precision: compute.Precision
    limits: gradients.Limits = field(default_factory=gradients.Limits)
    records_norms: bool = False
    surgery: multitask.Surgery | None = None

    def take(
        self,
        micro_batches: Sequence[batches.Batch],
        before: Sequence[states.State | None],
        carries_state: bool,
        own_share: float = 0.0,
        number: int = 0,
    ) -> Outcome:
        """Does one step. The gradient is that of the mean loss over the valid targets of all ranks and tasks.

        Args:
            micro_batches: those of a task in their order.
            before: the state of each task.
            carries_state: whether a micro-batch starts from the state after the one before of its task; else from none.
            own_share: that of scheduled sampling.
            number: of the step; with the seed it decides the order of projections.

        The norm is read once, the only moment at which a GPU is waited for; where tasks are looked at one by one, their
        inner products are read before.
        """
        num_targets = max(1, sum(batch.num_targets for batch in micro_batches))
        sums_K2 = torch.zeros((len(before), 2), dtype=torch.float64, device=self.device)
        after = list(before)
        ordered = sorted(micro_batches, key=lambda batch: batch.task)
        taken: list[multitask.Gradient] = []
        for place, batch in enumerate(ordered):
            task = batch.task
            ends_step = place == len(ordered) - 1
            ends_task = ends_step or ordered[place + 1].task != task
            is_summed = ends_task if self.surgery else ends_step
            with contextlib.nullcontext() if is_summed else self._without_sync():
                with compute.autocast(str(self.device), self.precision):
                    content = batches.to_device(batch.content, self.device)
                    loss, nll, state = self.replica(content, after[task], own_share)
                after[task] = state if carries_state and not batch.ends_pass else None
                weight = 1.0 if batch.num_own else 0.0
                (loss * (weight / num_targets)).backward()
                sums_K2[task] += weight * torch.stack((loss.detach(), nll))
            if self.surgery and ends_task:
                taken.append(multitask.take(self.objective.model, self.surgery.detached[task]))
        cosines = self._combine(taken, number) if self.surgery else {}
        layer_norms = gradients.norms(self.objective.model) if self.records_norms else {}
        norm = float(gradients.clip_within(self.objective.model, self.limits))
        is_applied = abs(norm) < float("inf")
        if is_applied:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        following = tuple(after) if is_applied else (None,) * len(before)
        return Outcome(sums_K2, norm, is_applied, following, layer_norms, cosines)

    def warm_up(self, content: batches.Content) -> None:
        """Takes a step without effect.

        DDP puts its buckets in the order in which gradients first arrived after the first backward pass; without
        this a resumed run of three or more ranks would add up in another order than the uninterrupted one.
        """
        with compute.autocast(str(self.device), self.precision):
            loss, _, _ = self.replica(batches.to_device(content, self.device), None)
        (loss * 0.0).backward()
        self.optimizer.zero_grad(set_to_none=True)

    def _combine(self, taken: Sequence[multitask.Gradient], number: int) -> Mapping[tuple[int, int], float]:
        """Makes one gradient of those of all tasks; returns the cosines that are recorded."""
        assert self.surgery is not None
        combined = multitask.combine(taken, self.surgery, number)
        for parameter, gradient in zip(self.objective.model.parameters(), combined.gradient, strict=True):
            parameter.grad = gradient
        return combined.cosines

    def _without_sync(self) -> contextlib.AbstractContextManager[None]:
        if isinstance(self.replica, DistributedDataParallel):
            return self.replica.no_sync()
        return contextlib.nullcontext()


def replicate(model: losses.Objective, group: collective.Collective) -> nn.Module:
    """Wraps the objective so that backward leaves each rank with the sum of all ranks' gradients."""
    if group.world_size == 1:
        return model
    replica = DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)
    replica.register_comm_hook(None, _sum_bucket)
    return replica


def _sum_bucket(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Sums a bucket over the ranks; DDP's own way would divide by their number, which the loss knows nothing of."""
    work = dist.all_reduce(bucket.buffer(), op=dist.ReduceOp.SUM, async_op=True)
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return summed
