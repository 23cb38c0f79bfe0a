"""Draws translations token by token instead of searching for the likeliest."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.config import inference_settings
from core.decoding import sampling
from core.decoding.translation import beam_search, constraints, decoders


def chances(seed: int, line: str, draw: int, length: int) -> npt.NDArray[np.float64]:
    """Returns the random numbers of one draw for one line, between 0 and 1, one for each token.

    They are a function of what is asked for, so a draw depends neither on the other lines nor on who makes it; equal
    lines are drawn alike.
    """
    digest = hashlib.sha256(f"{seed} {draw} {line}".encode("utf-8", "surrogatepass")).digest()
    key = np.frombuffer(digest[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(length)


@torch.inference_mode()
def draw(
    model: decoders.Decoder[decoders.M],
    memory: decoders.M,
    chances_NDT: npt.NDArray[np.float64],
    settings: inference_settings.DecodingConfig,
    special: constraints.Special,
    prefixes: Sequence[Sequence[int]] | None = None,
) -> list[list[beam_search.Hypothesis]]:
    """Draws D translations for each line, in the order of the draws.

    The log-probabilities are divided by the temperature, cut by `top_k` and `top_p` (see `sampling`) and drawn from;
    the score is that of the model, without temperature and cut. A line whose numbers are not finite has no
    translation.

    Args:
        model: the decoder, in evaluation mode.
        memory: the encoder's result, with a row for each line.
        chances_NDT: of each line, draw and place the share of the probability that lies before its token.
        settings: lengths, penalties and how to draw.
        special: the reserved ids.
        prefixes: what the translations of each line must begin with.
    """
    num_lines, num_draws, _ = chances_NDT.shape
    chances_RT = torch.from_numpy(chances_NDT.reshape(num_lines * num_draws, -1)).to(model.device)
    given = constraints.Prefixes([prefix for prefix in prefixes or [] for _ in range(num_draws)], model.device)
    tokens_R = torch.full((num_lines * num_draws,), special.bos, dtype=torch.int64, device=model.device)
    first = torch.arange(num_lines, device=model.device).repeat_interleave(num_draws)
    state = tuple(tuple(part.index_select(0, first) for part in layer) for layer in model.initial_state(memory))
    history_RT = tokens_R.new_zeros(len(tokens_R), 0)
    scores_R = torch.zeros(len(tokens_R), dtype=torch.float64, device=model.device)
    alive_R = torch.ones_like(tokens_R, dtype=torch.bool)
    looked_at: list[Tensor] = []
    for length in range(1, settings.max_length + 1):
        said = model.step(tokens_R, memory, state)
        state = said.state
        plain_RV = said.logits_RV.clone()
        values_RV = constraints.apply(said, length, given.at(length), history_RT, settings, special)
        tokens_R = _taken((values_RV - said.norm_R1) / settings.temperature, chances_RT[:, length - 1], settings)
        nats_R = (plain_RV.gather(1, tokens_R[:, None]) - said.norm_R1).squeeze(1)
        scores_R += torch.where(alive_R, nats_R.double(), 0.0)
        history_RT = torch.cat([history_RT, tokens_R[:, None]], 1)
        if said.attention_RS is not None:
            looked_at.append(said.attention_RS.argmax(1))
        alive_R &= tokens_R != special.eos
        if not bool(alive_R.any()):
            break
    rows = zip(history_RT.tolist(), scores_R.tolist(), _beside(looked_at, history_RT), strict=True)
    drawn = [_hypothesis(*row, special.eos) for row in rows]
    return [
        [one for one in drawn[line * num_draws : (line + 1) * num_draws] if np.isfinite(one.score_nats)]
        for line in range(num_lines)
    ]


def _taken(values_RV: Tensor, chances_R: Tensor, settings: inference_settings.DecodingConfig) -> Tensor:
    """Returns for each row the first token up to which the probabilities sum to more than its chance."""
    probabilities_RV = sampling.kept(values_RV, settings.top_k, settings.top_p).double().softmax(dim=1)
    reached_RV = probabilities_RV.cumsum(dim=1)
    found_R1 = torch.searchsorted(reached_RV, (chances_R * reached_RV[:, -1])[:, None], right=True)
    return found_R1.squeeze(1).clamp(max=values_RV.shape[1] - 1)


def _beside(looked_at: Sequence[Tensor], history_RT: Tensor) -> list[list[int] | None]:
    return torch.stack(list(looked_at), 1).tolist() if looked_at else [None] * len(history_RT)


def _hypothesis(tokens: list[int], score: float, looked_at: list[int] | None, eos: int) -> beam_search.Hypothesis:
    length = tokens.index(eos) + 1 if eos in tokens else len(tokens)
    alignment = None if looked_at is None else tuple(looked_at[:length])
    return beam_search.Hypothesis(tuple(tokens[:length]), score, alignment, score)
