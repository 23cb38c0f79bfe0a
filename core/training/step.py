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
from core.training import batches, collective, gradients, objective


class Outcome(NamedTuple):
    """What a step did; the sums are this rank's and stay on the device.

    `norm` is that of the gradient of all ranks before clipping. A step whose norm is not finite is not applied: all
    ranks have the same sum, so all leave it out together, and the state starts from zero again. `layer_norms` are
    those before clipping too, if they are recorded.
    """

    sums_2: Tensor  # the loss that is minimised, and the negative log-likelihood
    norm: float
    is_applied: bool
    state: states.State | None
    layer_norms: Mapping[str, float]


@dataclass(frozen=True)
class Learner:
    """What a step works on. `replica` is the objective, wrapped by DDP where there are several ranks."""

    objective: objective.Objective
    replica: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    precision: compute.Precision
    limits: gradients.Limits = field(default_factory=gradients.Limits)
    records_norms: bool = False

    def take(
        self,
        micro_batches: Sequence[batches.Batch],
        state: states.State | None,
        carries_state: bool,
        own_share: float = 0.0,
    ) -> Outcome:
        """Does one step. The gradient is that of the mean loss over the valid targets of all ranks.

        Where state is carried, each micro-batch starts from that of the one before; else from none. `own_share` is that
        of scheduled sampling.

        The norm is read once, the only moment at which a GPU is waited for.
        """
        num_targets = max(1, sum(batch.num_targets for batch in micro_batches))
        sums_2 = torch.zeros(2, dtype=torch.float64, device=self.device)
        for number, batch in enumerate(micro_batches):
            is_last = number == len(micro_batches) - 1
            with contextlib.nullcontext() if is_last else self._without_sync():
                with compute.autocast(str(self.device), self.precision):
                    content = batches.to_device(batch.content, self.device)
                    loss, nll, after = self.replica(content, state, own_share)
                state = after if carries_state else None
                weight = 1.0 if batch.num_own else 0.0
                (loss * (weight / num_targets)).backward()
                sums_2 += weight * torch.stack((loss.detach(), nll))
        layer_norms = gradients.norms(self.objective.model) if self.records_norms else {}
        norm = float(gradients.clip_within(self.objective.model, self.limits))
        is_applied = abs(norm) < float("inf")
        if is_applied:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Outcome(sums_2, norm, is_applied, state if is_applied else None, layer_norms)

    def warm_up(self, content: batches.Content) -> None:
        """Takes a step without effect.

        DDP puts its buckets in the order in which gradients first arrived after the first backward pass; without
        this a resumed run of three or more ranks would add up in another order than the uninterrupted one.
        """
        with compute.autocast(str(self.device), self.precision):
            loss, _, _ = self.replica(batches.to_device(content, self.device), None)
        (loss * 0.0).backward()
        self.optimizer.zero_grad(set_to_none=True)

    def _without_sync(self) -> contextlib.AbstractContextManager[None]:
        if isinstance(self.replica, DistributedDataParallel):
            return self.replica.no_sync()
        return contextlib.nullcontext()


def replicate(model: objective.Objective, group: collective.Collective) -> nn.Module:
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
