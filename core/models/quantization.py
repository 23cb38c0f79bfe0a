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

from core.models import bf16_products, compute, integer_products


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
    products_RN = integer_products.multiply((x_RK / scales_R1).round_(), weight.packed_KN, len(weight.scales_N))
    y_RN = x_RK.new_empty(products_RN.shape, dtype=torch.float32)
    # Some rows at a time, which stay in the cache of the processor.
    num_rows = compute.rows_at_once(y_RN.shape[1], x.device.type)
    for start in range(0, len(y_RN), num_rows):
        block = slice(start, start + num_rows)
        y = y_RN[block].copy_(products_RN[block]).mul_(weight.scales_N).mul_(scales_R1[block])
        if bias_N is not None:
            y += bias_N
    return y_RN.view(*x.shape[:-1], -1)


def bf16_linear(x: Tensor, weight_WK: Tensor, size: int) -> Tensor:
    """Returns the first `size` outputs of a linear layer in bf16, its weights and bias from `bf16_products.weights`."""
    x_RK = x.reshape(-1, x.shape[-1])
    y_PW = bf16_products.features(x_RK) @ weight_WK.t()
    return y_PW[: len(x_RK), :size].view(*x.shape[:-1], size)


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
        self._copies: dict[int, tuple[tuple[tuple[int, int], ...], Any]] = {}

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
            return int8_linear(x, self._copy(quantize_weight, weight_NK), bias_N)
        if x.device.type == "cpu":
            # A bias that is not of the models, such as a slice of one, may be another tensor at each call.
            is_lasting = bias_N is not None and id(bias_N) in self._weight_ids
            y = bf16_linear(
                x, self._copy(bf16_products.weights, weight_NK, bias_N if is_lasting else None), len(weight_NK)
            )
            return y if is_lasting or bias_N is None else y + bias_N.bfloat16()
        bf16_bias_N = None if bias_N is None else self._copy(torch.Tensor.bfloat16, bias_N)
        return F.linear(x.bfloat16(), self._copy(torch.Tensor.bfloat16, weight_NK), bf16_bias_N)

    def _copy(self, quantize: Callable[..., Any], *weights: Tensor | None) -> Any:
        """Returns the quantized copy of a weight, and of its bias, made anew if either has changed since."""
        first = weights[0]
        versions = tuple((id(weight), _version(weight)) for weight in weights if weight is not None)
        cached_versions, copy = self._copies.get(id(first), ((), None))
        if cached_versions != versions:
            copy = quantize(*(None if weight is None else weight.detach() for weight in weights))
            if id(first) in self._weight_ids:
                self._copies[id(first)] = versions, copy
        return copy


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version  # inference tensors do not count their changes
