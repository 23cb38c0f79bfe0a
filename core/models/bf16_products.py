"""Matrix products in bf16 in the form that is fast on a CPU.

oneDNN compiles a kernel for each shape of a product, which takes longer than the product itself: 12 ms on average, and
100 ms for a gradient over a vocabulary of 6,000. So rows are filled up to a multiple of `KERNEL_ROWS`, and a
training has few shapes. A bias costs a pass over the result of its own: it is a column of the weights instead, for a
feature that is 1.
"""

import torch
from torch import Tensor

KERNEL_ROWS = 64
KERNEL_COLUMNS = 8
"""With an odd number of columns oneDNN does not use the matrix units for an LSTM, and less well for a product."""
NEVER = -1e30
"""Bias of rows that fill up weights; a logit that has no probability."""


def fill_up(size: int, multiple: int) -> int:
    """Returns the least multiple that is not below a size."""
    return -(-size // multiple) * multiple


def features(x_NF: Tensor) -> Tensor:
    """Returns rows in bf16 (P, K) with the feature of the bias; the rows and columns after them are zero."""
    num_rows, size = x_NF.shape
    x_PK = x_NF.new_zeros(fill_up(num_rows, KERNEL_ROWS), fill_up(size + 1, KERNEL_COLUMNS), dtype=torch.bfloat16)
    x_PK[:num_rows, :size] = x_NF
    x_PK[:num_rows, size] = 1.0
    return x_PK


def weights(weight_VF: Tensor, bias_V: Tensor | None) -> Tensor:
    """Returns weights in bf16 (W, K) with the column of the bias, for rows from `features`.

    The rows after them are zero, and their bias is `NEVER`.
    """
    num_rows, size = weight_VF.shape
    weight_WK = weight_VF.new_empty(
        fill_up(num_rows, KERNEL_ROWS), fill_up(size + 1, KERNEL_COLUMNS), dtype=torch.bfloat16
    )
    weight_WK[:num_rows, :size] = weight_VF
    weight_WK[:num_rows, size] = 0.0 if bias_V is None else bias_V
    weight_WK[:num_rows, size + 1 :] = 0.0
    weight_WK[num_rows:] = 0.0
    weight_WK[num_rows:, size] = NEVER
    return weight_WK
