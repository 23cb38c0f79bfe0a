"""The training objective: cross entropy in nats, summed over valid targets.

Padding is left out before the loss, so that it cannot count. Sums are returned instead of means, because they are
divided by the number of valid targets of all ranks together, which each batch comes with. `token_loss` computes them
without the logits of a whole batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import checkpoint

from core.config import training_settings
from core.models import factory, language_model, recurrent_stack, token_loss
from core.models import state as states
from core.training import batches, lookback, scheduled_sampling, truncation

SLICE_ROWS = 256
"""Rows of logits that exist at a time in a validation."""


class Sums(NamedTuple):
    """Sums over a batch: the loss that is minimized, and the negative log-likelihood that is reported.

    The two differ by label smoothing, AR and TAR. `state` is the state after the batch; None for pairs.
    """

    loss: Tensor
    nll: Tensor
    state: states.State | None


class Scores(NamedTuple):
    """Sums over a batch of a validation: negative log-likelihood, and targets that were the most likely token."""

    nll: Tensor
    num_right: Tensor
    state: states.State | None


class Objective(nn.Module):
    """Model and loss as one module, so that DDP sees every use of a parameter in its forward call.

    Attributes:
        label_smoothing: share of a target's probability that is spread evenly over the vocabulary.
        activation_regularization: weight of `activation_penalty` (AR).
        temporal_activation_regularization: weight of `temporal_penalty` (TAR).
        target_window: target tokens between two truncation points of the gradients of long targets; None for none.
    """

    def __init__(
        self,
        model: factory.Model,
        label_smoothing: float = 0.0,
        activation_regularization: float = 0.0,
        temporal_activation_regularization: float = 0.0,
        target_window: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        self.activation_regularization = activation_regularization
        self.temporal_activation_regularization = temporal_activation_regularization
        self.target_window = target_window

    def forward(self, content: batches.Content, state: states.State | None, sampling_probability: float = 0.0) -> Sums:
        """Computes the sums of a batch, and the detached state after it.

        Args:
            content: the batch, on the model's device.
            state: of a language model, carried from the window before; None starts its rows from the zero state.
            sampling_probability: of pairs, the probability that a decoder input is a token that the model sampled.
        """
        if isinstance(content, batches.PairsContent):
            features_BTF = self._decode_targets(content, sampling_probability)
            # Padding ends here: only the features of valid targets are projected to logits.
            features_NF = features_BTF.flatten(0, 1).index_select(0, content.valid_N)
            return Sums(*self._losses(features_NF, content.targets_N), None)
        outputs = self._read_window(content, state)
        # All targets of a window are valid: the stream is cut, never padded.
        loss, nll = self._losses(outputs.features_BTF.flatten(0, 1), content.targets_N)
        if self.activation_regularization:
            loss = loss + self.activation_regularization * activation_penalty(outputs.features_BTF)
        if self.temporal_activation_regularization:
            loss = loss + self.temporal_activation_regularization * temporal_penalty(outputs.raw_BTH)
        # Truncation point: the state is detached; its values carry over to the next window, the graph does not.
        return Sums(loss, nll, truncation.detach(outputs.state))

    @torch.no_grad()
    def score(self, content: batches.Content, state: states.State | None) -> Scores:
        """Computes the log-likelihood of a batch, and counts the targets that were the most likely token."""
        if isinstance(content, batches.PairsContent):
            features_BTF = self.model(content.source_BS, content.source_lengths_B, content.inputs_BT)
            features_NF, state = features_BTF.flatten(0, 1).index_select(0, content.valid_N), None
        else:
            outputs = self._read_window(content, state)
            features_NF, state = outputs.features_BTF.flatten(0, 1), outputs.state
        # In fp64: a validation sums millions of tokens, and its number must not depend on the number of ranks.
        nll = torch.zeros((), dtype=torch.float64, device=features_NF.device)
        num_right = torch.zeros((), dtype=torch.int64, device=features_NF.device)
        slices = zip(torch.split(features_NF, SLICE_ROWS), torch.split(content.targets_N, SLICE_ROWS), strict=True)
        for features_RF, targets_R in slices:
            logits_RV = self.model.logits(features_RF).float()
            nll += F.cross_entropy(logits_RV, targets_R, reduction="sum")
            num_right += (logits_RV.argmax(dim=-1) == targets_R).sum()
        return Scores(nll, num_right, state)

    def _losses(self, features_NF: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        model = self.model
        if isinstance(model, language_model.LanguageModel) and model.adaptive is not None:
            # An adaptive softmax has no single output matrix, and computes its own loss.
            nll = model.adaptive.nll(features_NF, targets_N)
            return nll, nll.detach()
        weight_VF, bias_V = model.output_weight_VF, model.output_bias_V
        return token_loss.summed(features_NF, weight_VF, bias_V, targets_N, self.label_smoothing)

    def _read_window(self, content: batches.TextContent, state: states.State | None) -> language_model.Outputs:
        """Runs the language model over a window, in segments where random truncation may cut it."""
        model, inputs_BT, looks_back = self.model, content.inputs_BT, content.lookback
        assert isinstance(model, language_model.LanguageModel)
        # A look-back that reaches the beginning of a lane starts there again, with the gradient of a learned state.
        if state is None or (looks_back is not None and looks_back.begins_lane):
            state = model.initial_state(inputs_BT.shape[0])
        if looks_back is not None:
            assert isinstance(model.stack, recurrent_stack.Stack), "the settings refuse it for a feed-forward layer"
            raw_BTH, state = lookback.run(
                model.stack, model.embed_input(inputs_BT), state, looks_back.steps, looks_back.num_before
            )
            return language_model.Outputs(model.compute_features(raw_BTH), raw_BTH, state)
        # Without random truncation the whole window is one fused call.
        if not content.weights_T:
            return model.outputs(inputs_BT, state)
        # The masks are drawn once for the window: a cut must not change which units are dropped.
        assert isinstance(model.stack, recurrent_stack.Stack), "the settings refuse it for a feed-forward layer"
        x_BTE, masks, segments = model.embed_input(inputs_BT), model.stack.draw_dropout(inputs_BT.shape[0]), []
        for begin, end, weight in truncation.segments(content.weights_T, inputs_BT.shape[1]):
            y_BTH, state = model.stack(x_BTE[:, begin:end], truncation.scale_gradient(state, weight), masks)
            segments.append(y_BTH)
        raw_BTH = torch.cat(segments, dim=1)
        return language_model.Outputs(model.compute_features(raw_BTH), raw_BTH, state)

    def _decode_targets(self, content: batches.PairsContent, sampling_probability: float) -> Tensor:
        """Computes the decoder's features of padded targets.

        Where a target is longer than `target_window`, the state is detached between windows, and a window's activations
        are computed again in the backward pass: memory does not grow with the target but for its features. The source
        is encoded once, so that the gradients of all windows reach the encoder through attention.

        Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, for the recomputation.
        """
        model, inputs_BT = self.model, content.inputs_BT
        assert not isinstance(model, language_model.LanguageModel)
        length = inputs_BT.shape[1]
        window = self.target_window or length
        # The model's own forward call encodes and decodes at once, without anything to recompute.
        if sampling_probability == 0.0 and length <= window:
            features_BTF: Tensor = model(content.source_BS, content.source_lengths_B, inputs_BT)
            return features_BTF
        memory = model.encode(content.source_BS, content.source_lengths_B)
        if sampling_probability > 0.0:
            inputs_BT = scheduled_sampling.mix_inputs(model, memory, inputs_BT, sampling_probability)
        state = model.initial_state(memory)
        if length <= window:
            return model.decode(inputs_BT, memory, state)[0]
        windows = []
        for start in range(0, length, window):
            window_BT = inputs_BT[:, start : start + window]
            # `use_reentrant=False` restores the default generators for the recomputation: the same dropout masks.
            features_BTF, state = checkpoint.checkpoint(model.decode, window_BT, memory, state, use_reentrant=False)
            state = truncation.detach(state)
            windows.append(features_BTF)
        return torch.cat(windows, dim=1)


def build(model: factory.Model, training: training_settings.TrainingConfig) -> Objective:
    """Returns the objective that the settings ask for."""
    return Objective(
        model,
        training.label_smoothing,
        training.activation_regularization,
        training.temporal_activation_regularization,
        training.target_window,
    )


def activation_penalty(features_BTF: Tensor) -> Tensor:
    """Computes AR: the mean square over a position's features, summed over the B T positions.

    Divided by the number of targets, as the loss is, it is the mean over all entries, which the authors' program adds
    to the mean loss per token. The features are those after dropout.

    Source: Merity, McCann and Socher 2017, Revisiting Activation Regularization for Language RNNs.
    """
    return features_BTF.float().square().mean(dim=-1).sum()


def temporal_penalty(raw_BTH: Tensor) -> Tensor:
    """Computes TAR: the mean square of the change from a step to the next, times the B T positions of the window.

    Divided by the number of targets it is the mean over the B (T - 1) H differences. A window of one step has none.

    Source: Merity, McCann and Socher 2017, Revisiting Activation Regularization for Language RNNs.
    """
    length = raw_BTH.shape[1]
    if length == 1:
        return raw_BTH.new_zeros((), dtype=torch.float32)
    return raw_BTH.float().diff(dim=1).square().mean(dim=-1).sum() * (length / (length - 1))
