"""Cross entropy of tokens, fused with the output layer: the logits of all targets never exist at once.

With a large vocabulary the logits of a batch would take more memory than the model, and on a CPU the passes over them
cost as much as the matrix products. Here a slice of rows goes through one buffer that is used again for the next slice:
logits, softmax and gradient take each other's place in it. In bf16 the products of a slice are expanded to fp32 some
rows at a time, which stay in the cache of the processor until their gradient is rounded again.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core.models import bf16_products, compute

SLICE_ROWS = {"cpu": 512, "cuda": 4096}
"""Rows of logits that exist at a time, by device: the fastest of 128 to 1,024 for 5,000 to 33,000 entries on a CPU."""
BF16_SLICE_ROWS = {"cpu": 1024, "cuda": 4096}
"""The same in bf16, where more than one slice costs a pass over the gradient of the weights."""
FEW_LOGITS = 1 << 20
"""Up to this number of logits (4 MB) one plain product is up to twice as fast, and its memory does not matter."""


class Losses(NamedTuple):
    """Sums over targets: the loss that is minimized, and without gradient the negative log-likelihood."""

    loss: Tensor
    nll: Tensor


def summed(
    features_NF: Tensor, weight_VF: Tensor, bias_V: Tensor, targets_N: Tensor, label_smoothing: float = 0.0
) -> Losses:
    """Computes the summed loss and negative log-likelihood of N targets in nats, in fp32.

    Label smoothing by ε spreads that share of each target's probability evenly over all V entries. With z the logits,
    its loss is nll + ε (z_target − mean z): no sum over the vocabulary beyond the one that nll needs.

    Under autocast the matrix products are in bf16, softmax and sums in fp32.

    Source: Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision, section 7.
    """
    device = features_NF.device.type
    is_bf16 = compute.is_autocast(device)
    # Autocast is off below, so that softmax and sums are in fp32; the products alone may be in bf16.
    with compute.autocast(device, "fp32"):
        features_NF = features_NF.bfloat16() if is_bf16 else features_NF.to(weight_VF.dtype)
        if features_NF.shape[0] * weight_VF.shape[0] <= FEW_LOGITS:
            return _plain(features_NF, weight_VF, bias_V, targets_N, label_smoothing)
        loss, nll = _SlicedLoss.apply(  # type: ignore[no-untyped-call]
            features_NF, weight_VF, bias_V, targets_N, label_smoothing, torch.is_grad_enabled()
        )
        return Losses(loss, nll)


def _plain(features_NF: Tensor, weight_VF: Tensor, bias_V: Tensor, targets_N: Tensor, label_smoothing: float) -> Losses:
    """Computes `summed` with all logits in memory."""
    rows_PF = features_NF
    if features_NF.dtype == torch.bfloat16:
        num_rows = bf16_products.fill_up(len(targets_N), bf16_products.KERNEL_ROWS)
        rows_PF = F.pad(features_NF, (0, 0, 0, num_rows - len(targets_N)))
    logits_NV = F.linear(rows_PF, weight_VF.to(rows_PF.dtype))[: len(targets_N)].float() + bias_V
    nll = F.cross_entropy(logits_NV, targets_N, reduction="sum")
    loss = nll
    if label_smoothing:
        # z is linear in the features, so the mean of the weights gives the mean logit without any logits.
        away_NF = weight_VF[targets_N] - weight_VF.mean(dim=0)
        away = (features_NF.float() * away_NF).sum() + bias_V[targets_N].sum() - len(targets_N) * bias_V.mean()
        loss = nll + label_smoothing * away
    return Losses(loss, nll.detach())


def softmax_in_place(logits_NV: Tensor) -> Tensor:
    """Replaces logits by their softmax; returns the logs of the normalizers (N, 1), so that log p = logit - normalizer.

    The largest probability is exp(0) over the sum of the softmax: so log-sum-exp needs no pass of its own, and is
    finite where the probability of a target is 0 in fp32.
    """
    largest_N1 = logits_NV.amax(dim=1, keepdim=True)
    return largest_N1 - torch.softmax(logits_NV, dim=1, out=logits_NV).amax(dim=1, keepdim=True).log()


class _Sums(NamedTuple):
    """Sums over targets: the negative log-likelihood, and the logits."""

    nll: Tensor
    logits: Tensor


def _gradients_in_place(logits_NV: Tensor, targets_N1: Tensor, label_smoothing: float) -> _Sums:
    """Replaces logits by the part of their gradients that differs between entries: see `_SlicedLoss`."""
    target_logits_N1 = logits_NV.gather(1, targets_N1)
    sums = _Sums((softmax_in_place(logits_NV) - target_logits_N1).sum(), target_logits_N1.sum())
    logits_NV.scatter_add_(1, targets_N1, target_logits_N1.fill_(label_smoothing - 1.0))
    return sums


class _SlicedLoss(torch.autograd.Function):
    """Summed cross entropy, a slice of rows at a time; its gradients are computed while a slice's softmax exists.

    With p the softmax and ε the label smoothing, the gradient with respect to a logit is p − (1 − ε) at the target and
    p elsewhere, less ε / V everywhere. That last part is the same for all entries: it is taken from the gradients of
    features and weights as a vector, and never from the logits.
    """

    @staticmethod
    def forward(ctx, features_NF, weight_VF, bias_V, targets_N, label_smoothing, with_gradient):  # type: ignore[no-untyped-def]
        """Returns the summed loss and negative log-likelihood; keeps the gradients of the loss for `backward`."""
        num_rows, feature_size = features_NF.shape
        device, is_bf16 = features_NF.device.type, features_NF.dtype == torch.bfloat16
        rows, weight = features_NF, weight_VF
        if is_bf16:
            rows, weight = bf16_products.features(features_NF), bf16_products.weights(weight_VF, bias_V)
        limits = BF16_SLICE_ROWS if is_bf16 else SLICE_ROWS
        slice_rows = max(1, min(len(rows), limits.get(device, limits["cpu"])))
        products_SV = weight.new_empty(slice_rows, len(weight))
        block_rows = min(slice_rows, compute.rows_at_once(len(weight), device)) if is_bf16 else slice_rows
        block_BV = bias_V.new_empty(block_rows, len(weight)) if is_bf16 else products_SV
        nll, target_logits = bias_V.new_zeros(()), bias_V.new_zeros(())
        ones_S = weight.new_ones(slice_rows)
        if with_gradient:  # as large as the output layer, and of no use in validation
            grad_rows = features_NF.new_empty(len(rows), feature_size)
            grad_weight, grad_bias = torch.empty_like(weight_VF), torch.empty_like(bias_V)
        for start in range(0, len(rows), slice_rows):
            features, targets = rows[start : start + slice_rows], targets_N[start : start + slice_rows, None]
            products = products_SV[: len(features)]
            if is_bf16:
                torch.mm(features, weight.t(), out=products)
            else:
                torch.addmm(bias_V, features, weight.t(), out=products)
            for first in range(0, len(targets), block_rows):
                of_block = targets[first : first + block_rows]
                rounded = products[first : first + len(of_block)]
                logits = block_BV[: len(of_block)].copy_(rounded) if is_bf16 else rounded
                of_targets = _gradients_in_place(logits, of_block, label_smoothing)
                nll += of_targets.nll
                target_logits += of_targets.logits
                if with_gradient and is_bf16:
                    rounded.copy_(logits)
            if not with_gradient:
                continue
            products[len(targets) :] = 0.0
            torch.mm(products, weight[:, :feature_size], out=grad_rows[start : start + slice_rows])
            if is_bf16:
                # A sum over slices is in fp32; a product alone is in bf16.
                grad_VK = (products.t() @ features)[: len(weight_VF)]
                add = torch.Tensor.add_ if start else torch.Tensor.copy_
                add(grad_weight, grad_VK[:, :feature_size])
                add(grad_bias, grad_VK[:, feature_size])
            else:
                beta = 1.0 if start else 0.0  # the first slice takes the place of what is in the memory
                grad_weight.addmm_(products.t(), features, beta=beta)
                grad_bias.addmv_(products.t(), ones_S[: len(features)], beta=beta)
        loss = nll.clone()
        if label_smoothing:
            mean_weight_F, sum_F = weight_VF.mean(dim=0), features_NF.sum(dim=0, dtype=weight_VF.dtype)
            loss += label_smoothing * (target_logits - sum_F @ mean_weight_F - num_rows * bias_V.mean())
            if with_gradient:
                grad_rows -= (label_smoothing * mean_weight_F).to(grad_rows.dtype)
                grad_weight -= label_smoothing / len(weight_VF) * sum_F
                grad_bias -= label_smoothing * num_rows / len(weight_VF)
        if with_gradient:
            ctx.save_for_backward(grad_rows[:num_rows], grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx, scale, _):  # type: ignore[no-untyped-def]
        """Returns the gradients of `forward` times the gradient of its loss.

        They are scaled in place, since those of the output layer are large; a second pass through the same graph raises
        autograd's error of tensors that were modified.
        """
        return *(gradient.mul_(scale) for gradient in ctx.saved_tensors), None, None, None
