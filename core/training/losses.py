"""The loss: a sum over valid targets, in nats, computed without the logits of a whole batch.

Padding never gets here, so it cannot count. Sums are returned, not means: the number that they are divided by
is that of all ranks together, which the plan of the batches knows.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import checkpoint

from core.config import training_settings
from core.models import factory, language_model
from core.models import state as states
from core.training import batches, scheduled_sampling, truncation

SLICE_ROWS = 256
"""Rows of logits that exist at a time: the fastest of 64, 256 and 1,024 for 5,000 to 18,000 entries on a CPU."""
FEW_LOGITS = 1 << 20
"""Up to so many logits (4 MB) the plain way is up to twice as fast, and its memory does not matter."""


class Sums(NamedTuple):
    """What a batch adds: the loss that is minimised, and the negative log-likelihood that is reported."""

    loss: Tensor
    nll: Tensor
    state: states.State | None


class Scores(NamedTuple):
    """What a batch adds to a validation."""

    nll: Tensor
    num_right: Tensor
    state: states.State | None


class Objective(nn.Module):
    """Model and loss as one module, so that DDP sees every use of a parameter in its forward call.

    `activation` and `temporal` are the weights of AR and TAR; `target_window` is where the gradients of long targets
    stop. See the settings of these names.
    """

    def __init__(
        self,
        model: factory.Model,
        label_smoothing: float = 0.0,
        activation: float = 0.0,
        temporal: float = 0.0,
        target_window: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        self.activation, self.temporal = activation, temporal
        self.target_window = target_window

    def forward(self, content: batches.Content, state: states.State | None, own_share: float = 0.0) -> Sums:
        """The sums of a batch, and the state after it, cut from its history.

        Args:
            content: the batch, on the model's device.
            state: of a language model, where its rows go on; None starts them from the zero state.
            own_share: of pairs, the share of the decoder's inputs that are the model's own words.
        """
        if isinstance(content, batches.PairsContent):
            features_BTF = self._decoded(content, own_share)
            features_NF = features_BTF.flatten(0, 1).index_select(0, content.valid_N)
            return Sums(*self._losses(features_NF, content.targets_N), None)
        outputs = self._text(content, state)
        loss, nll = self._losses(outputs.features_BTF.flatten(0, 1), content.targets_N)
        if self.activation:
            loss = loss + self.activation * activation_penalty(outputs.features_BTF)
        if self.temporal:
            loss = loss + self.temporal * temporal_penalty(outputs.raw_BTH)
        return Sums(loss, nll, truncation.cut(outputs.state))

    @torch.no_grad()
    def score(self, content: batches.Content, state: states.State | None) -> Scores:
        """The log-likelihood of a batch, and how many targets were the likeliest token."""
        if isinstance(content, batches.PairsContent):
            features_BTF = self.model(content.source_BS, content.source_lengths_B, content.inputs_BT)
            features_NF, state = features_BTF.flatten(0, 1).index_select(0, content.valid_N), None
        else:
            outputs = self._text(content, state)
            features_NF, state = outputs.features_BTF.flatten(0, 1), outputs.state
        nll = torch.zeros((), dtype=torch.float64, device=features_NF.device)
        num_right = torch.zeros((), dtype=torch.int64, device=features_NF.device)
        pieces = zip(torch.split(features_NF, SLICE_ROWS), torch.split(content.targets_N, SLICE_ROWS), strict=True)
        for features, targets in pieces:
            logits = self.model.logits(features).float()
            nll += F.cross_entropy(logits, targets, reduction="sum")
            num_right += (logits.argmax(dim=-1) == targets).sum()
        return Scores(nll, num_right, state)

    def _losses(self, features_NF: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        model = self.model
        if isinstance(model, language_model.LanguageModel) and model.adaptive is not None:
            nll = model.adaptive.nll(features_NF, targets_N)
            return nll, nll.detach()
        return token_losses(features_NF, model.output_weight_VF, model.output_bias_V, targets_N, self.label_smoothing)

    def _text(self, content: batches.TextContent, state: states.State | None) -> language_model.Outputs:
        """The outputs of a window, in pieces where random truncation may cut it."""
        model, inputs_BT = self.model, content.inputs_BT
        assert isinstance(model, language_model.LanguageModel)
        if state is None:
            state = model.initial_state(inputs_BT.shape[0])
        if not content.weights_T:
            return model.outputs(inputs_BT, state)
        x_BTE, drawn, found = model.embed_input(inputs_BT), model.stack.draw_dropout(inputs_BT.shape[0]), []
        for begin, end, weight in truncation.pieces(content.weights_T, inputs_BT.shape[1]):
            y_BTH, state = model.stack(x_BTE[:, begin:end], truncation.weighted(state, weight), drawn)
            found.append(y_BTH)
        raw_BTH = torch.cat(found, dim=1)
        return language_model.Outputs(model.compute_features(raw_BTH), raw_BTH, state)

    def _decoded(self, content: batches.PairsContent, own_share: float) -> Tensor:
        """The features of padded targets.

        Where a target is longer than the window, the state goes on as a number, and a window's activations are computed
        again in the backward pass: memory does not grow with the target but for its features. The source is encoded
        once, so that the gradients of all windows reach the encoder through what the decoder looks at.
        """
        model, inputs_BT = self.model, content.inputs_BT
        assert not isinstance(model, language_model.LanguageModel)
        length = inputs_BT.shape[1]
        window = self.target_window or length
        if own_share == 0.0 and length <= window:
            features_BTF: Tensor = model(content.source_BS, content.source_lengths_B, inputs_BT)
            return features_BTF
        memory = model.encode(content.source_BS, content.source_lengths_B)
        if own_share > 0.0:
            inputs_BT = scheduled_sampling.mixed(model, memory, inputs_BT, own_share)
        state = model.initial_state(memory)
        if length <= window:
            return model.decode(inputs_BT, memory, state)[0]
        found = []
        for start in range(0, length, window):
            piece_BT = inputs_BT[:, start : start + window]
            features_BTF, state = checkpoint.checkpoint(model.decode, piece_BT, memory, state, use_reentrant=False)
            state = truncation.cut(state)
            found.append(features_BTF)
        return torch.cat(found, dim=1)


def build(model: factory.Model, training: training_settings.TrainingConfig) -> Objective:
    """The objective that the settings ask for."""
    return Objective(
        model,
        training.label_smoothing,
        training.activation_regularization,
        training.temporal_activation_regularization,
        training.target_window,
    )


def activation_penalty(features_BTF: Tensor) -> Tensor:
    """AR: the mean square over a position's features, summed over the B T positions.

    Divided by the number of targets, as the loss is, it is the mean over all entries: as the authors' program adds it
    to the mean loss of a token. The features are those after dropout.

    Source: Merity, McCann and Socher 2017, Revisiting Activation Regularization for Language RNNs.
    """
    return features_BTF.float().square().mean(dim=-1).sum()


def temporal_penalty(raw_BTH: Tensor) -> Tensor:
    """TAR: the mean square of what changes from a step to the next, times the B T positions of the window.

    Divided by the number of targets it is the mean over the B (T - 1) H differences. A window of one step has none.

    Source: as of `activation_penalty`.
    """
    length = raw_BTH.shape[1]
    if length == 1:
        return raw_BTH.new_zeros((), dtype=torch.float32)
    return raw_BTH.float().diff(dim=1).square().mean(dim=-1).sum() * (length / (length - 1))


def token_losses(
    features_NF: Tensor, weight_VF: Tensor, bias_V: Tensor, targets_N: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The summed loss (with its gradient) and the summed negative log-likelihood (without) of N targets, in fp32.

    Smoothing by ε moves that share of each target's probability evenly to all entries. With z the logits, its
    loss is nll + ε (z_target − mean z): no sum over the vocabulary but the one that nll needs.

    Source: Szegedy et al. 2016, Rethinking the Inception Architecture, section 7.
    """
    device = features_NF.device.type
    is_bf16 = torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False):
        features_NF = features_NF.bfloat16() if is_bf16 else features_NF.to(weight_VF.dtype)
        if features_NF.shape[0] * weight_VF.shape[0] <= FEW_LOGITS:
            logits_NV = F.linear(features_NF, weight_VF.to(features_NF.dtype)).float() + bias_V
            nll = F.cross_entropy(logits_NV, targets_N, reduction="sum")
        elif is_bf16:
            nll = _SlicedLoss.apply(features_NF, weight_VF, bias_V, targets_N)  # type: ignore[no-untyped-call]
        else:
            options = nn.LinearCrossEntropyOptions(batch_chunk_size=SLICE_ROWS)
            nll = F.linear_cross_entropy(
                features_NF, weight_VF, targets_N, linear_bias=bias_V, reduction="sum", options=options
            )
        loss = nll
        if label_smoothing:
            away_NF = weight_VF[targets_N] - weight_VF.mean(dim=0)
            away = (features_NF.float() * away_NF).sum() + bias_V[targets_N].sum() - len(targets_N) * bias_V.mean()
            loss = nll + label_smoothing * away
    return loss, nll.detach()


class _SlicedLoss(torch.autograd.Function):
    """Summed cross entropy of bf16 products, a slice of rows at a time; softmax, sums and gradients of weights in fp32.

    `F.linear_cross_entropy` computes in fp32 under autocast (1.8 times as long), and given bf16 it sums in bf16.
    As there, gradients are made in the forward pass, while a slice's logits exist.
    """

    @staticmethod
    def forward(ctx, features_NF, weight_VF, bias_V, targets_N):  # type: ignore[no-untyped-def]
        """The sum; keeps the gradients for `backward`."""
        weight = weight_VF.to(features_NF.dtype)
        total = torch.zeros((), device=features_NF.device)
        grad_features = torch.empty_like(features_NF)
        grad_weight, grad_bias = torch.zeros_like(weight_VF), torch.zeros_like(bias_V)
        for start in range(0, features_NF.shape[0], SLICE_ROWS):
            features, targets = features_NF[start : start + SLICE_ROWS], targets_N[start : start + SLICE_ROWS, None]
            log_probs = torch.log_softmax(F.linear(features, weight).float() + bias_V, dim=-1)
            total -= log_probs.gather(1, targets).sum()
            grad_logits = log_probs.exp_().scatter_add_(1, targets, log_probs.new_full((1, 1), -1.0).expand_as(targets))
            grad_bias += grad_logits.sum(dim=0)
            grad_logits = grad_logits.to(features.dtype)
            grad_features[start : start + SLICE_ROWS] = grad_logits @ weight
            grad_weight += grad_logits.t() @ features
        ctx.save_for_backward(grad_features, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx, scale):  # type: ignore[no-untyped-def]
        """The gradients of `forward` times that of the sum."""
        grad_features, grad_weight, grad_bias = ctx.saved_tensors
        return grad_features * scale, grad_weight * scale, grad_bias * scale, None
