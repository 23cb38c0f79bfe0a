"""Linear maps over rounded weights for inference: bf16, or int8 on a CPU; rounded once, inputs as they come.

In int8 each output channel of a weight and each row of an input has a scale of its own, its greatest magnitude / 127;
the products are whole numbers and exact. So what a row gives does not depend on the rows beside it.

Source: dynamic quantisation, Wu et al. 2016, section 6, and Jacob et al. 2018, here symmetric, by row and by channel.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_LARGEST = 127


class Int8(NamedTuple):
    """A weight as int8, (K, N), and what each of its output channels is multiplied by."""

    values_KN: Tensor
    scales_N: Tensor


def to_int8(weight_NK: Tensor) -> Int8:
    """Rounds a weight; a channel of zeros stays one."""
    scales_N = (weight_NK.abs().amax(dim=1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    values_NK = (weight_NK / scales_N[:, None]).round_().to(torch.int8)
    return Int8(values_NK.t(), scales_N)


def int8_linear(x: Tensor, weight: Int8, bias_N: Tensor | None) -> Tensor:
    """Returns x @ weight + bias in fp32; a row that is not finite gives a row that is not."""
    x_RK = x.reshape(-1, x.shape[-1])
    largest_R1 = torch.maximum(x_RK.amax(dim=1, keepdim=True), -x_RK.amin(dim=1, keepdim=True))
    scales_R1 = (largest_R1 / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    whole_RN = torch._int_mm((x_RK / scales_R1).round_().to(torch.int8), weight.values_KN)
    y_RN = whole_RN.float().mul_(weight.scales_N).mul_(scales_R1)
    if bias_N is not None:
        y_RN += bias_N
    return y_RN.view(*x.shape[:-1], -1)


class Rounded(TorchFunctionMode):
    """A context in which the linear maps of models go over rounded copies of their weights, which stay as they are.

    A copy is made when a weight is first used, and anew when it has changed. Autocast alone would round every
    weight at every step: it remembers nothing while gradients are off. What goes through torch's fused recurrent
    kernels, and what is neither a parameter of the models nor was adopted, is computed as always.
    """

    def __init__(self, precision: Literal["bf16", "int8"], *models: nn.Module) -> None:
        super().__init__()
        self._precision = precision
        # Parameters are known by what they are, not by their values; the models keep them alive.
        self._models = models
        self._own = {id(parameter) for model in models for parameter in model.parameters()}
        self._copies: dict[int, tuple[int, Any]] = {}

    def adopt(self, *weights: Tensor) -> None:
        """Takes more tensors for weights, such as some rows of one, for as long as they live; they may not change."""
        for weight in weights:
            self._own.add(id(weight))
            weakref.finalize(weight, self._forget, id(weight))

    def _forget(self, own: int) -> None:
        self._own.discard(own)
        self._copies.pop(own, None)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Takes the place of `linear` over a weight of a model."""
        named = kwargs or {}
        if func is torch.Tensor.tanh_ and args[0].dtype == torch.float32 and args[0].device.type == "cpu":
            # Equal to 1e-7; torch's own tanh takes a CPU five times as long.
            return args[0].mul_(2).sigmoid_().mul_(2).sub_(1)
        if func is not F.linear or len(args) < 2 or id(args[1]) not in self._own or not args[0].numel():
            return func(*args, **named)
        x, weight_NK = args[0], args[1]
        bias_N = args[2] if len(args) > 2 else named.get("bias")
        if self._precision == "int8":
            return int8_linear(x, self._copy(weight_NK, to_int8), bias_N)
        rounded_bias_N = None if bias_N is None else self._copy(bias_N, torch.Tensor.bfloat16)
        return F.linear(x.bfloat16(), self._copy(weight_NK, torch.Tensor.bfloat16), rounded_bias_N)

    def _copy(self, parameter: Tensor, round_: Callable[[Tensor], Any]) -> Any:
        version, copy = self._copies.get(id(parameter), (-1, None))
        now = 0 if parameter.is_inference() else parameter._version  # what was made in inference counts no changes
        if version != now:
            copy = round_(parameter.detach())
            if id(parameter) in self._own:
                self._copies[id(parameter)] = now, copy
        return copy
