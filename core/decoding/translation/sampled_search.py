"""Sampled search: translations sampled token by token from the model, reproducibly."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.config import inference_settings
from core.decoding import sampling
from core.decoding.translation import beam_search, constraints, decoders


def uniform_numbers(seed: int, line: str, sample: int, length: int) -> npt.NDArray[np.float64]:
    """Returns the random numbers of one sample for one line: uniform in [0, 1), one for each token.

    They depend on the arguments alone, so a sample depends neither on the other lines of its batch nor on the worker;
    equal lines get equal samples.
    """
    digest = hashlib.sha256(f"{seed} {sample} {line}".encode("utf-8", "surrogatepass")).digest()
    # Philox is counter-based: any key gives an independent stream, without state to seed or to carry over.
    key = np.frombuffer(digest[:16], dtype=np.uint64)  # Philox takes a key of 128 bits
    return np.random.Generator(np.random.Philox(key=key)).random(length)


@torch.inference_mode()
def sample(
    model: decoders.Decoder[decoders.M],
    memory: decoders.M,
    uniform_NDT: npt.NDArray[np.float64],
    settings: inference_settings.DecodingConfig,
    special: constraints.SpecialTokens,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[beam_search.Hypothesis]]:
    """Samples D translations for each line, in the order of the random numbers.

    Log-probabilities are divided by the temperature and filtered by `top_k` and `top_p` (see `sampling`) before a token
    is sampled; the score is the model's, without temperature and filters. A sample whose score is not finite is
    left out.

    Args:
        model: decoder, in evaluation mode.
        memory: the encoder's output, with a row for each line.
        uniform_NDT: random number of each line, sample and position.
        settings: lengths, penalties, temperature and filters.
        special: reserved ids.
        prefixes: forced beginnings of the translations of each line.
    """
    num_lines, num_samples, _ = uniform_NDT.shape
    uniform_RT = torch.from_numpy(uniform_NDT.reshape(num_lines * num_samples, -1)).to(model.device)
    repeated = [prefix for prefix in prefixes or [] for _ in range(num_samples)]
    forced = constraints.ForcedPrefixes(repeated, model.device)
    tokens_R = torch.full((num_lines * num_samples,), special.bos, dtype=torch.int64, device=model.device)
    # The samples of a line share its row of the memory, but each has a state of its own.
    lines_R = torch.arange(num_lines, device=model.device).repeat_interleave(num_samples)
    state = tuple(tuple(part.index_select(0, lines_R) for part in layer) for layer in model.initial_state(memory))
    history_RT = tokens_R.new_zeros(len(tokens_R), 0)
    scores_R = torch.zeros(len(tokens_R), dtype=torch.float64, device=model.device)
    unfinished_R = torch.ones_like(tokens_R, dtype=torch.bool)
    attended: list[Tensor] = []
    for length in range(1, settings.max_length + 1):
        predictions = model.step(tokens_R, memory, state)
        state = predictions.state
        # A copy: the constraints may overwrite the logits, and the score is computed without them.
        logits_RV = predictions.logits_RV.clone()
        scores_RV = constraints.apply(predictions, length, forced.at(length), history_RT, settings, special)
        log_probs_RV = sampling.divide_by_temperature(scores_RV - predictions.log_norm_R1, settings.temperature)
        tokens_R = _sample_tokens(log_probs_RV, uniform_RT[:, length - 1], settings)
        token_scores_R = (logits_RV.gather(1, tokens_R[:, None]) - predictions.log_norm_R1).squeeze(1)
        scores_R += torch.where(unfinished_R, token_scores_R.double(), 0.0)
        history_RT = torch.cat([history_RT, tokens_R[:, None]], 1)
        if predictions.attention_RS is not None:
            attended.append(predictions.attention_RS.argmax(1))
        # Finished rows stay in the batch; what follows their <eos> is cut off below.
        unfinished_R &= tokens_R != special.eos
        if not bool(unfinished_R.any()):
            break
    alignments = torch.stack(attended, 1).tolist() if attended else [None] * len(history_RT)
    rows = zip(history_RT.tolist(), scores_R.tolist(), alignments, strict=True)
    hypotheses = [_hypothesis(*row, special.eos) for row in rows]
    return [
        [sample for sample in hypotheses[start : start + num_samples] if np.isfinite(sample.score_nats)]
        for start in range(0, len(hypotheses), num_samples)
    ]


def _sample_tokens(log_probs_RV: Tensor, uniform_R: Tensor, settings: inference_settings.DecodingConfig) -> Tensor:
    """Samples a token for each row by inverse transform: the first whose cumulative probability exceeds `uniform_R`."""
    filtered_RV = sampling.filter_logits(log_probs_RV, settings.top_k, settings.top_p)
    cumulative_RV = filtered_RV.double().softmax(dim=1).cumsum(dim=1)
    # Scaled by the sum, which rounding may leave a little below 1.
    tokens_R1 = torch.searchsorted(cumulative_RV, (uniform_R * cumulative_RV[:, -1])[:, None], right=True)
    return tokens_R1.squeeze(1).clamp(max=log_probs_RV.shape[1] - 1)


def _hypothesis(tokens: list[int], score: float, alignment: list[int] | None, eos: int) -> beam_search.Hypothesis:
    length = tokens.index(eos) + 1 if eos in tokens else len(tokens)
    return beam_search.Hypothesis(
        tokens=tuple(tokens[:length]),
        score_nats=score,
        alignment=None if alignment is None else tuple(alignment[:length]),
        search_score=score,
    )
