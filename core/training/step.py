"""One optimizer step: forward and backward over micro-batches, one all-reduce, clipping, one update."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.models import compute, language_model
from core.models import state as states
from core.training import batches, collective, gradients, losses, multitask, optimizers


class StepResult(NamedTuple):
    """Results of a step. They stay on the device, so that nothing here waits for it; the sums are this rank's.

    Attributes:
        sums_K3: by corpus, the loss that is minimized, the negative log-likelihood, and the number of targets; zero for
            a step that was skipped.
        gradient_norm: of the gradient of all ranks before clipping.
        is_applied: whether the weights were updated. A step whose norm is not finite is skipped: all ranks have the
            same sum, so all skip it together, and the hidden states start from the initial ones again.
        states: the hidden state after the step, by corpus.
        layer_norms: of the gradient of each layer before clipping, if they are recorded.
        cosines: between the gradients of corpora, by pairs of their numbers, if they are recorded.
    """

    sums_K3: Tensor
    gradient_norm: Tensor
    is_applied: Tensor
    states: tuple[states.State | None, ...]
    layer_norms: Mapping[str, float]
    cosines: Mapping[tuple[int, int], float]


@dataclass(frozen=True)
class Learner:
    """Model, loss and optimizer. `replica` is the objective, wrapped by DDP where there are several ranks.

    With `surgery` the gradients of corpora are computed apart from each other; else all micro-batches are one batch.
    """

    objective: losses.Objective
    replica: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    precision: compute.Precision
    limits: gradients.Limits = field(default_factory=gradients.Limits)
    records_norms: bool = False
    surgery: multitask.Surgery | None = None

    def train_step(
        self,
        micro_batches: Sequence[batches.Batch],
        before: Sequence[states.State | None],
        carries_state: bool,
        sampling_probability: float = 0.0,
        step: int = 0,
    ) -> StepResult:
        """Takes one step along the gradient of the mean loss over the valid targets of all ranks and corpora.

        Args:
            micro_batches: those of a corpus in their order.
            before: the hidden state of each corpus.
            carries_state: whether a micro-batch starts from the state after the one before it of its corpus, else from
                the zero state.
            sampling_probability: of scheduled sampling.
            step: number of the step; with the seed it decides the order of projections.
        """
        # Of all ranks and micro-batches: so the gradient does not depend on how a batch is spread over them.
        num_targets = max(1, sum(batch.num_targets for batch in micro_batches))
        # To be read at the next row of the run log; in fp64, since many steps are added up.
        sums_K3 = torch.zeros((len(before), 3), dtype=torch.float64, device=self.device)
        after = list(before)
        by_corpus = sorted(micro_batches, key=lambda batch: batch.corpus)  # stable: in order within a corpus
        corpus_gradients: list[multitask.Gradient] = []
        for index, batch in enumerate(by_corpus):
            corpus = batch.corpus
            ends_step = index == len(by_corpus) - 1
            ends_corpus = ends_step or by_corpus[index + 1].corpus != corpus
            # Gradients are all-reduced once, in the backward pass of the last micro-batch of a sum.
            is_summed = ends_corpus if self.surgery else ends_step
            with contextlib.nullcontext() if is_summed else self._without_sync():
                with compute.autocast(str(self.device), self.precision):
                    content = batches.to_device(batch.content, self.device)
                    loss, nll, state = self.replica(content, after[corpus], sampling_probability)
                # The next epoch starts at another offset of the text: the state before it would not fit.
                after[corpus] = state if carries_state and not batch.ends_epoch else None
                # A rank without targets of its own computes a placeholder: DDP needs its backward pass all the same.
                placeholder_factor = 1.0 if batch.num_own else 0.0
                (loss * (placeholder_factor / num_targets)).backward()
                sums_K3[corpus, :2] += placeholder_factor * torch.stack((loss.detach(), nll))
                sums_K3[corpus, 2] += batch.num_own
            if self.surgery and ends_corpus:
                corpus_gradients.append(multitask.pop_gradient(self.objective.model, self.surgery.detached[corpus]))
        cosines = self._combine(corpus_gradients, step) if self.surgery else {}
        layer_norms = gradients.layer_norms(self.objective.model) if self.records_norms else {}
        # Not read here: the CPU would wait for the GPU (as it does for multitask's inner products and recorded norms).
        gradient_norm = gradients.clip_to_limits(self.objective.model, self.limits)
        is_applied = gradient_norm.isfinite()
        optimizers.step_where(self.optimizer, is_applied)
        self.optimizer.zero_grad(set_to_none=True)
        # The loss of a skipped step is not finite, and would make all sums so.
        sums_K3 = torch.where(is_applied, sums_K3, 0.0)
        # A state that overflowed would make the next gradient infinite too.
        states_after = tuple(None if state is None else self._reset_unless(is_applied, state) for state in after)
        return StepResult(sums_K3, gradient_norm, is_applied, states_after, layer_norms, cosines)

    def warm_up(self, content: batches.Content) -> None:
        """Runs a forward and a backward pass without effect.

        DDP rebuilds its buckets, in the order in which gradients first arrived, after the first backward pass; without
        this a resumed run of three or more ranks would add up in another order than the uninterrupted one.
        """
        with compute.autocast(str(self.device), self.precision):
            loss, _, _ = self.replica(batches.to_device(content, self.device), None)
        (loss * 0.0).backward()
        self.optimizer.zero_grad(set_to_none=True)

    def _reset_unless(self, is_applied: Tensor, state: states.State) -> states.State:
        """Returns the state, or after a skipped step the initial one."""
        model = self.objective.model
        assert isinstance(model, language_model.LanguageModel), "other models carry no state"
        initial = states.detach(model.initial_state(state[0][0].shape[0]))
        return tuple(
            tuple(torch.where(is_applied, *pair) for pair in zip(layer, start, strict=True))
            for layer, start in zip(state, initial, strict=True)
        )

    def _combine(self, corpus_gradients: Sequence[multitask.Gradient], step: int) -> Mapping[tuple[int, int], float]:
        """Puts the combined gradient of all corpora into the model; returns the cosines that are recorded."""
        assert self.surgery is not None
        combined = multitask.combine(corpus_gradients, self.surgery, step)
        for parameter, gradient in zip(self.objective.model.parameters(), combined.gradient, strict=True):
            parameter.grad = gradient
        return combined.cosines

    def _without_sync(self) -> contextlib.AbstractContextManager[None]:
        if isinstance(self.replica, DistributedDataParallel):
            return self.replica.no_sync()
        return contextlib.nullcontext()


def replicate(model: losses.Objective, group: collective.Collective) -> nn.Module:
    """Wraps the objective so that the backward pass leaves each rank with the sum of all ranks' gradients."""
    if group.world_size == 1:
        return model
    # The buffers are constants, equal on all ranks; views save a copy of all gradients.
    replica = DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)
    replica.register_comm_hook(None, _sum_bucket)
    return replica


def _sum_bucket(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Sums a bucket over the ranks.

    DDP's default divides by their number, but the loss is divided by the number of targets of all ranks already.
    """
    work = dist.all_reduce(bucket.buffer(), op=dist.ReduceOp.SUM, async_op=True)
    summed: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return summed
