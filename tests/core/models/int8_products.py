"""Products of int8 matrices as different CPUs compute them, in place of torch's."""

import torch
from torch import Tensor
from torch.nn import functional as F


def exact(left_RK: Tensor, right_KN: Tensor) -> Tensor:
    """Multiplies as CPUs with VNNI do: four products are added in 32 bits."""
    return (left_RK.long() @ right_KN.long()).int()


def saturating(left_RK: Tensor, right_KN: Tensor) -> Tensor:
    """Multiplies as AVX2 does: unsigned left factors, and sums of two products limited to 16 bits."""
    rights_KN = F.pad(right_KN.int(), (0, 0, 0, right_KN.shape[0] % 2))
    shifted_RK = F.pad(left_RK.int() + 128, (0, left_RK.shape[1] % 2))
    pairs = shifted_RK[:, 0::2, None] * rights_KN[None, 0::2] + shifted_RK[:, 1::2, None] * rights_KN[None, 1::2]
    sums_RN = pairs.clamp(-(1 << 15), (1 << 15) - 1).sum(1, dtype=torch.int32)
    return sums_RN - 128 * rights_KN.sum(0, dtype=torch.int32)
