"""Cross entropy of tokens, fused with the output layer: the logits of all targets never exist at once.

With a large vocabulary the logits of a batch would take more memory than the model, and on a CPU the passes over them
cost as much as the matrix products. Here a slice of rows goes through one buffer that is used again for the next slice:
logits, softmax and gradient take each other's place in it.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core.models import compute

SLICE_ROWS = {"cpu": 512, "cuda": 4096}
"""Rows of logits that exist at a time, by device: the fastest of 128 to 1,024 for 5,000 to 33,000 entries on a CPU."""
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
    logits_NV = F.linear(features_NF, weight_VF.to(features_NF.dtype)).float() + bias_V
    nll = F.cross_entropy(logits_NV, targets_N, reduction="sum")
    loss = nll
    if label_smoothing:
        # z is linear in the features, so the mean of the weights gives the mean logit without any logits.
        away_NF = weight_VF[targets_N] - weight_VF.mean(dim=0)
        away = (features_NF.float() * away_NF).sum() + bias_V[targets_N].sum() - len(targets_N) * bias_V.mean()
        loss = nll + label_smoothing * away
    return Losses(loss, nll.detach())


class _SlicedLoss(torch.autograd.Function):
    """Summed cross entropy, a slice of rows at a time; its gradients are computed while a slice's softmax exists.

    With p the softmax and ε the label smoothing, the gradient with respect to a logit is p − (1 − ε) at the target and
    p elsewhere, less ε / V everywhere. That last part is the same for all entries: it is taken from the gradients of
    features and weights as a vector, and never from the logits.
    """

    @staticmethod
    def forward(ctx, features_NF, weight_VF, bias_V, targets_N, label_smoothing, with_gradient):  # type: ignore[no-untyped-def]
        """Returns the summed loss and negative log-likelihood; keeps the gradients of the loss for `backward`."""
        num_rows, size = features_NF.shape[0], weight_VF.shape[0]
        slice_rows = max(1, min(num_rows, SLICE_ROWS.get(features_NF.device.type, SLICE_ROWS["cpu"])))
        weight = weight_VF.to(features_NF.dtype)
        logits_SV = bias_V.new_empty(slice_rows, size)
        # Products of bf16 have a buffer of their own, since softmax is in fp32.
        products_SV = logits_SV if weight is weight_VF else weight.new_empty(slice_rows, size)
        nll, target_logits = bias_V.new_zeros(()), bias_V.new_zeros(())
        ones_S = weight.new_ones(slice_rows)
        if with_gradient:  # as large as the output layer, and of no use in validation
            grad_features = torch.empty_like(features_NF)
            grad_weight, grad_bias = torch.zeros_like(weight_VF), torch.zeros_like(bias_V)
        for start in range(0, num_rows, slice_rows):
            features, targets = features_NF[start : start + slice_rows], targets_N[start : start + slice_rows, None]
            logits, products = logits_SV[: len(features)], products_SV[: len(features)]
            if products_SV is logits_SV:
                torch.addmm(bias_V, features, weight.t(), out=logits)
            else:
                torch.mm(features, weight.t(), out=products)
                torch.add(products, bias_V, out=logits)
            of_targets, largest = logits.gather(1, targets), logits.amax(dim=1, keepdim=True)
            probabilities = torch.softmax(logits, dim=1, out=logits)
            # The largest probability is exp(0) over the sum of the softmax: so log-sum-exp needs no pass of its own,
            # and is finite where the probability of the target is 0 in fp32.
            nll += (largest - probabilities.amax(dim=1, keepdim=True).log() - of_targets).sum()
            target_logits += of_targets.sum()
            if not with_gradient:
                continue
            grad_logits = probabilities.scatter_add_(1, targets, of_targets.fill_(label_smoothing - 1.0))
            if products_SV is not logits_SV:
                grad_logits = products.copy_(grad_logits)
            torch.mm(grad_logits, weight, out=grad_features[start : start + slice_rows])
            if products_SV is logits_SV:
                grad_weight.addmm_(grad_logits.t(), features)
                grad_bias.addmv_(grad_logits.t(), ones_S[: len(features)])
            else:
                # A sum over slices is in fp32; a product alone is in bf16.
                grad_weight += grad_logits.t() @ features
                grad_bias += grad_logits.sum(dim=0, dtype=grad_bias.dtype)
        loss = nll.clone()
        if label_smoothing:
            mean_weight_F, sum_F = weight_VF.mean(dim=0), features_NF.sum(dim=0, dtype=weight_VF.dtype)
            loss += label_smoothing * (target_logits - sum_F @ mean_weight_F - num_rows * bias_V.mean())
            if with_gradient:
                grad_features -= (label_smoothing * mean_weight_F).to(grad_features.dtype)
                grad_weight -= label_smoothing / size * sum_F
                grad_bias -= label_smoothing * num_rows / size
        if with_gradient:
            ctx.save_for_backward(grad_features, grad_weight, grad_bias)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx, scale, _):  # type: ignore[no-untyped-def]
        """Returns the gradients of `forward` times the gradient of its loss."""
        grad_features, grad_weight, grad_bias = ctx.saved_tensors
        return grad_features * scale, grad_weight * scale, grad_bias * scale, None, None, None
