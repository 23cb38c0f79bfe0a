"""Optimizers, and their state by parameter name."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from core import errors
from core.config import optimizer_settings, training_settings
from core.training import averaged_sgd, schedules


def build(model: nn.Module, training: training_settings.TrainingConfig) -> torch.optim.Optimizer:
    """Returns the optimizer of a model's parameters; its learning rate is set before each step.

    The fused implementations update all weights in one pass.

    Source: Kingma and Ba 2015, Adam: A Method for Stochastic Optimization; Loshchilov and Hutter 2019, Decoupled Weight
    Decay Regularization, for AdamW; see `averaged_sgd` for averaged SGD.
    """
    parameters = list(model.parameters())
    learning_rate, settings = training.learning_rate, training.optimizer
    decay = settings.weight_decay  # an L2 penalty; decoupled from the gradient in AdamW alone
    if isinstance(settings, optimizer_settings.AdamConfig):
        adam = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
        return adam(
            parameters, lr=learning_rate, betas=settings.betas, eps=settings.epsilon, weight_decay=decay, fused=True
        )
    sgd = torch.optim.SGD if settings.kind == "sgd" else averaged_sgd.AveragedSGD
    return sgd(parameters, lr=learning_rate, momentum=settings.momentum, weight_decay=decay, fused=True)


def step_where(optimizer: torch.optim.Optimizer, is_applied: torch.Tensor) -> None:
    """Takes a step if a flag on the device is true, without reading it there; else leaves weights and state alone."""
    for group in optimizer.param_groups:
        if group.get("momentum"):
            # A skipped first step would leave the velocity as torch allocates it: without values.
            for parameter in group["params"]:
                if parameter.grad is not None and "momentum_buffer" not in optimizer.state[parameter]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    # The name under which the fused kernels look for the flag of a gradient scaler.
    optimizer.found_inf = (~is_applied).to(torch.float32)  # type: ignore[attr-defined]
    optimizer.step()


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def prepare(
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    training: training_settings.TrainingConfig,
    history: Sequence[schedules.Key],
) -> None:
    """Sets the learning rate of the next step, and starts averaging once its trigger fires."""
    set_learning_rate(optimizer, learning_rate)
    if isinstance(optimizer, averaged_sgd.AveragedSGD) and not optimizer.is_averaging:
        assert isinstance(training.optimizer, optimizer_settings.AsgdConfig)
        # Averages of before a resume go on, whatever interval is set now: else they would be saved and never renewed.
        optimizer.is_averaging = optimizer.has_averages or averaged_sgd.is_triggered(
            history, training.optimizer.non_monotone_interval
        )


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Returns the optimizer's tensors as `<quantity>/<parameter>`, on the CPU.

    torch's own state_dict numbers the parameters; by name, a checkpoint does not depend on their order.
    """
    named = {}
    for name, parameter in model.named_parameters():
        # `get`: indexing torch's state would create an empty entry.
        for quantity, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                named[f"{quantity}/{name}"] = value.detach().cpu().contiguous()
    return named


def load_named_state(model: nn.Module, optimizer: torch.optim.Optimizer, named: Mapping[str, torch.Tensor]) -> None:
    """Loads the tensors of `named_state` into an optimizer.

    Raises:
        IntegrityError: a tensor belongs to no parameter of this model, or has another shape.
    """
    indices = {name: index for index, (name, _) in enumerate(model.named_parameters())}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in named.items():
        quantity, _, name = key.partition("/")
        # Scalars, such as Adam's count of steps, have no shape to compare.
        if name not in indices or (value.dim() > 0 and value.shape != shapes[name]):
            raise errors.IntegrityError(
                f"optimizer.safetensors: {key} with shape {tuple(value.shape)} fits no parameter of the model; "
                "the checkpoint was made for another model"
            )
        state.setdefault(indices[name], {})[quantity] = value
    # torch's own loading converts types and devices; its state is numbered in the order of the parameters.
    content = optimizer.state_dict()
    content["state"] = state
    optimizer.load_state_dict(content)
