"""Dynamic quantization for inference: weights quantized once, activations dynamically; int8 on CPUs, or bf16.

In int8 each output channel of a weight and each row of an activation has its own scale, its largest magnitude / 127.
The products are sums of integers, and exact on every CPU (`integer_products`): those of a row depend neither on the
other rows of its batch nor on the machine.

Source: Wu et al. 2016, Google's neural machine translation system, section 6; Jacob et al. 2018, Quantization and
training of neural networks for efficient integer-arithmetic-only inference; here symmetric, by row and by channel.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from core.models import integer_products


class Int8Weight(NamedTuple):
    """A weight quantized to int8, as the kernel of this process takes it, with the scale of each output channel."""

    packed_KN: Tensor
    scales_N: Tensor


def quantize_weight(weight_NK: Tensor) -> Int8Weight:
    """Quantizes a weight to int8; a channel of zeros stays zero."""
    # The smallest normal number instead of 0, by which a channel of zeros would be divided.
    scales_N = (weight_NK.abs().amax(dim=1) / integer_products.MAX_MAGNITUDE).clamp(min=torch.finfo(torch.float32).tiny)
    values_NK = (weight_NK / scales_N[:, None]).round_().to(torch.int8)
    return Int8Weight(integer_products.pack(values_NK.t(), integer_products.kernel()), scales_N)


def int8_linear(x: Tensor, weight: Int8Weight, bias_N: Tensor | None) -> Tensor:
    """Returns x @ weight + bias in fp32 over quantized activations; a row that is not finite gives one that is not."""
    x_RK = x.reshape(-1, x.shape[-1])
    # Without the copy that x.abs() would make.
    largest_R1 = torch.maximum(x_RK.amax(dim=1, keepdim=True), -x_RK.amin(dim=1, keepdim=True))
    scales_R1 = (largest_R1 / integer_products.MAX_MAGNITUDE).clamp(min=torch.finfo(torch.float32).tiny)
    products_RN = integer_products.multiply((x_RK / scales_R1).round_(), weight.packed_KN)
    y_RN = products_RN.mul_(weight.scales_N).mul_(scales_R1)
    if bias_N is not None:
        y_RN += bias_N
    return y_RN.view(*x.shape[:-1], -1)


class DynamicQuantization(TorchFunctionMode):
    """A context in which the linear layers of models use quantized copies of their weights.

    The weights themselves are unchanged. A copy is made when a weight is first used, and again when the weight has
    changed. For bf16, autocast alone would cast every weight at every step: it caches casts only while gradients are
    enabled. Torch's fused recurrent kernels, and weights that are neither parameters of the models nor added by
    `add_weights`, are computed as outside.
    """

    def __init__(self, precision: Literal["bf16", "int8"], *models: nn.Module) -> None:
        super().__init__()
        self._precision = precision
        # Weights are identified by `id`, which stays unique while the models keep them alive.
        self._models = models
        self._weight_ids = {id(parameter) for model in models for parameter in model.parameters()}
        self._copies: dict[int, tuple[int, Any]] = {}

    def add_weights(self, *weights: Tensor) -> None:
        """Adds more tensors to the weights, such as rows of one, for as long as they exist; they must not change."""
        for weight in weights:
            self._weight_ids.add(id(weight))
            weakref.finalize(weight, self._remove, id(weight))

    def _remove(self, weight_id: int) -> None:
        # A later tensor may get the same id.
        self._weight_ids.discard(weight_id)
        self._copies.pop(weight_id, None)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replaces `linear` over a weight of the models, and `tanh_` on CPUs."""
        kwargs = kwargs or {}
        if func is torch.Tensor.tanh_ and args[0].dtype == torch.float32 and args[0].device.type == "cpu":
            # tanh x = 2 σ(2x) − 1, equal to 1e-7; torch's own takes five times as long on a CPU.
            return args[0].mul_(2).sigmoid_().mul_(2).sub_(1)
        # An empty batch would have no maximum; recurrent kernels do not call F.linear.
        if func is not F.linear or len(args) < 2 or id(args[1]) not in self._weight_ids or not args[0].numel():
            return func(*args, **kwargs)
        x, weight_NK = args[0], args[1]
        bias_N = args[2] if len(args) > 2 else kwargs.get("bias")
        if self._precision == "int8":
            return int8_linear(x, self._copy(weight_NK, quantize_weight), bias_N)
        bf16_bias_N = None if bias_N is None else self._copy(bias_N, torch.Tensor.bfloat16)
        return F.linear(x.bfloat16(), self._copy(weight_NK, torch.Tensor.bfloat16), bf16_bias_N)

    def _copy(self, weight: Tensor, quantize: Callable[[Tensor], Any]) -> Any:
        """Returns the quantized copy of a weight, made anew if the weight has changed since."""
        cached_version, copy = self._copies.get(id(weight), (-1, None))
        version = 0 if weight.is_inference() else weight._version  # inference tensors do not count their changes
        if cached_version != version:
            copy = quantize(weight.detach())
            if id(weight) in self._weight_ids:
                self._copies[id(weight)] = version, copy
        return copy
