"""An n-gram model: what comes next, given the few tokens before, from tables of runs that were counted.

Level n has a row for each distinct run of n tokens, sorted; level 1 one for each entry of the vocabulary. A row is
known by its key, (row of the run without its last token) · V + last token, so that a longer run is found from a
shorter one by one binary search, for all places of a text at a time.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core import errors
from core.config import ngram_settings
from core.models import state as states

NOTHING = -1  # in the place of a token: there was none


def find(keys_G: Tensor, wanted: Tensor) -> Tensor:
    """Returns the place of each wanted key among sorted ones, or -1 where it is not there or below 0."""
    if not len(keys_G):
        return torch.full_like(wanted, -1)
    place = torch.searchsorted(keys_G, wanted).clamp(max=len(keys_G) - 1)
    return torch.where(keys_G[place] == wanted, place, -1)


class Followers(NamedTuple):
    """Of each context of a level: the likeliest token that was seen after it, and its probability; 0 without one."""

    tokens_R: Tensor
    probabilities_R: Tensor


class Ngram(nn.Module):
    """Tables of probabilities in back-off form, used as a language model is: tokens and a state go in.

    A run that was seen has its probability in the table; one that was not has that of its shorter form (without the
    first token; with `laplace` the last token alone) times the back-off weight of its context. The state is the last
    N−1 tokens. Tables are in double precision: what may follow sums to 1 within 1e-9.

    Tables: `probability_n` (of each row given the rest of its run), n = 1 … N; `keys_n`, n = 2 … N; `backoff_n`, n =
    1 … N−1, by the row that is the context.
    """

    def __init__(self, config: ngram_settings.NgramConfig, vocabulary_size: int, tables: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = config
        self.vocabulary_size = vocabulary_size
        for name, table in sorted(tables.items()):
            self.register_buffer(name, table)

    @property
    def tables(self) -> dict[str, Tensor]:
        """All tables by name."""
        return dict(self.named_buffers())

    def keys(self, level: int) -> Tensor:
        """The sorted keys of a level from 2 on."""
        return self.get_buffer(f"keys_{level}")

    def probability(self, level: int) -> Tensor:
        """The probability of the last token of each run of a level, given the others."""
        return self.get_buffer(f"probability_{level}")

    def backoff(self, level: int) -> Tensor:
        """What the shorter context's probability is multiplied by, for each run of a level as a context."""
        return self.get_buffer(f"backoff_{level}")

    def initial_state(self, batch_size: int) -> states.State:
        """Returns the state in which nothing came before."""
        shape = (batch_size, self.config.order - 1)
        return ((torch.full(shape, NOTHING, device=self.probability(1).device),),)

    def forward(self, tokens_BT: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns at every position the last N−1 tokens (B, T, N−1), for `logits`, and the state after the last."""
        seen_BL = torch.cat([state[0][0], tokens_BT], dim=1)
        width = self.config.order - 1
        contexts_BTC = seen_BL[:, 1:].unfold(1, width, 1)
        return contexts_BTC, ((seen_BL[:, seen_BL.shape[1] - width :],),)

    def step(self, tokens_B: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the last N−1 tokens after one more of each row, and the new state."""
        contexts_B1C, state = self(tokens_B[:, None], state)
        return contexts_B1C[:, 0], state

    def logits(self, contexts_BC: Tensor) -> Tensor:
        """Returns the log-probability of every entry after each context; -inf where it is 0."""
        return torch.stack([self.distribution(context_C) for context_C in contexts_BC]).log()

    def distribution(self, context_C: Tensor) -> Tensor:
        """Returns the probability of every entry after one context; sums to 1."""
        single_V = self.probability(1)
        found_V = single_V
        rows = self._contexts(context_C[None, :])
        for level in range(2, self.config.order + 1):
            row = int(rows[level - 2][0, -1])
            if self._forgets:
                found_V = single_V
            if row >= 0:
                found_V = found_V * self.backoff(level - 1)[row]
                first, last = (int(torch.searchsorted(self.keys(level), key)) for key in self._key_range(row))
                tokens = self.keys(level)[first:last] - row * self.vocabulary_size
                found_V[tokens] = self.probability(level)[first:last]
        return found_V

    def score(
        self, inputs_BT: Tensor, targets: Sequence[Sequence[int]], state: states.State
    ) -> tuple[list[Tensor], states.State]:
        """Returns the negative log-probabilities of each row's targets, in nats, and the state after the inputs.

        Target t follows input t; a row may have fewer targets than inputs. What cannot be is infinite.
        """
        seen_BL = torch.cat([state[0][0], inputs_BT], dim=1)
        width = self.config.order - 1
        targets_BT = torch.zeros_like(inputs_BT)
        for row, ids in enumerate(targets):
            targets_BT[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        found_BT = single_BT = self.probability(1)[targets_BT]
        contexts = [rows_BL[:, width:] for rows_BL in self._contexts(seen_BL)]
        for level, rows_BT in zip(range(2, self.config.order + 1), contexts, strict=True):
            shorter_BT = single_BT if self._forgets else found_BT
            if not len(self.keys(level)):  # a text shorter than the run
                found_BT = shorter_BT
                continue
            place_BT = find(self.keys(level), torch.where(rows_BT < 0, -1, rows_BT * self.vocabulary_size + targets_BT))
            weight_BT = torch.where(rows_BT < 0, 1.0, self.backoff(level - 1)[rows_BT])
            found_BT = torch.where(place_BT < 0, shorter_BT * weight_BT, self.probability(level)[place_BT])
        nlls_BT = -found_BT.log()
        last = seen_BL[:, seen_BL.shape[1] - width :]
        return [nlls_BT[row, : len(ids)] for row, ids in enumerate(targets)], ((last,),)

    def followers(self) -> list[Followers]:
        """The likeliest follower of every context, for `guesses`: first of the empty one, then by level."""
        single_V = self.probability(1)
        found = [Followers(_first_of_greatest(single_V)[None], single_V.max()[None])]
        for level in range(2, self.config.order + 1):
            keys_G, own_G = self.keys(level), self.probability(level)
            rows_G, tokens_G = keys_G // self.vocabulary_size, keys_G % self.vocabulary_size
            best_R = own_G.new_zeros(len(self.probability(level - 1))).scatter_reduce(0, rows_G, own_G, "amax")
            is_best_G = own_G == best_R[rows_G]
            tokens_R = torch.full_like(best_R, self.vocabulary_size, dtype=torch.int64)
            found.append(Followers(tokens_R.scatter_reduce(0, rows_G[is_best_G], tokens_G[is_best_G], "amin"), best_R))
        return found

    def guesses(self, inputs_BT: Tensor, state: states.State, followers: Sequence[Followers]) -> Tensor:
        """Returns the likeliest token after each input (B, T); of equally likely ones that with the lowest id.

        It is the likeliest seen follower of the context, or what is likeliest after the shorter context where that
        was not seen here. Where the latter was seen, and less likely than backing off to it would be, all entries are
        looked at.
        """
        seen_BL = torch.cat([state[0][0], inputs_BT], dim=1)
        width = self.config.order - 1
        first, *others = followers
        single_BT, most_BT = (part.expand(inputs_BT.shape) for part in first)
        token_BT, bound_BT = single_BT, most_BT
        unsure_BT = torch.zeros_like(inputs_BT, dtype=torch.bool)
        contexts = [rows_BL[:, width:] for rows_BL in self._contexts(seen_BL)]
        for level, (own, rows_BT) in enumerate(zip(others, contexts, strict=True), start=2):
            if self._forgets:
                token_BT, bound_BT, unsure_BT = single_BT, most_BT, torch.zeros_like(unsure_BT)
            weight_BT = torch.where(rows_BT < 0, 1.0, self.backoff(level - 1)[rows_BT])
            bound_BT = bound_BT * weight_BT
            own_token_BT = torch.where(rows_BT < 0, self.vocabulary_size, own.tokens_R[rows_BT])
            own_most_BT = torch.where(rows_BT < 0, -1.0, own.probabilities_R[rows_BT])
            is_seen_BT = (
                find(self.keys(level), torch.where(rows_BT < 0, -1, rows_BT * self.vocabulary_size + token_BT)) >= 0
            )
            takes_own_BT = (own_most_BT > bound_BT) | ((own_most_BT == bound_BT) & (own_token_BT < token_BT))
            unsure_BT = (unsure_BT | is_seen_BT) & (own_most_BT <= bound_BT)
            token_BT = torch.where(takes_own_BT, own_token_BT, token_BT)
            bound_BT = torch.maximum(own_most_BT, bound_BT)
        token_BT = token_BT.clone()
        for row, place in unsure_BT.nonzero().tolist():
            token_BT[row, place] = _first_of_greatest(self.distribution(seen_BL[row, place + 1 : place + 1 + width]))
        return token_BT

    def after(self, token: int, steps: int) -> Tensor:
        """Returns the probability of every entry so many steps after a token, whatever comes in between.

        Exact, by dynamic programming over the tokens in between: p_{k+1}(w) = Σ_v p_k(v) P(w | v).

        Raises:
            UsageError: the model looks back at more than one token, so the tokens alone are no Markov chain.

        Source: document 000 section 8.1.1.2.
        """
        if self.config.order > 2:
            raise errors.UsageError(
                f"model.order: steps of a Markov chain need order 1 or 2, this model has {self.config.order}"
            )
        found_V = self.distribution(torch.tensor([token][: self.config.order - 1], dtype=torch.int64))
        for _ in range(steps - 1):
            found_V = self._one_step(found_V)
        return found_V

    def _one_step(self, now_V: Tensor) -> Tensor:
        """Where a chain of order 2 is after one more step: what backs off goes to all, what was seen to its own."""
        single_V = self.probability(1)
        if self.config.order == 1:
            return single_V
        rows_G, tokens_G = self.keys(2) // self.vocabulary_size, self.keys(2) % self.vocabulary_size
        next_V = single_V * (now_V * self.backoff(1)).sum()
        gained_G = self.probability(2) - self.backoff(1)[rows_G] * single_V[tokens_G]
        return next_V.index_add(0, tokens_G, now_V[rows_G] * gained_G)

    @property
    def _forgets(self) -> bool:
        """Whether a run that was not seen is judged by its last token alone."""
        return self.config.smoothing == "laplace"

    def _contexts(self, seen_BL: Tensor) -> list[Tensor]:
        """Returns for n = 1 … N−1 the row of the run of n tokens that ends at each place, -1 where there is none."""
        rows = [seen_BL] if self.config.order > 1 else []
        for level in range(2, self.config.order):
            before_BL = torch.full_like(seen_BL, NOTHING)
            before_BL[:, 1:] = rows[-1][:, :-1]
            wanted_BL = torch.where((before_BL < 0) | (seen_BL < 0), -1, before_BL * self.vocabulary_size + seen_BL)
            rows.append(find(self.keys(level), wanted_BL))
        return rows

    def _key_range(self, row: int) -> tuple[int, int]:
        """The keys of all runs that go on from a row."""
        return row * self.vocabulary_size, (row + 1) * self.vocabulary_size


def _first_of_greatest(values_V: Tensor) -> Tensor:
    return (values_V == values_V.max()).nonzero()[0, 0]


def from_tables(
    config: ngram_settings.NgramConfig, vocabulary_size: int, tables: Mapping[str, Tensor], where: str
) -> Ngram:
    """Makes a model of stored tables, after checking that they fit each other.

    Raises:
        IntegrityError: a table is missing or too many, of another type or size, out of order, or no probability.
    """
    levels = range(1, config.order + 1)
    expected = {f"probability_{level}" for level in levels} | {f"keys_{level}" for level in levels[1:]}
    expected |= {f"backoff_{level}" for level in levels[:-1]}
    if set(tables) != expected:
        raise _damaged(
            where, f"has the tables {', '.join(sorted(tables))}, which are not those of order {config.order}"
        )
    rows = 1
    for level in levels:
        values = tables[f"probability_{level}"]
        keys = tables[f"keys_{level}"] if level > 1 else torch.arange(vocabulary_size)
        weights = tables[f"backoff_{level}"] if level < config.order else torch.ones(len(values), dtype=torch.float64)
        if keys.dtype != torch.int64 or {values.dtype, weights.dtype} != {torch.float64}:
            raise _damaged(where, f"level {level} has numbers of another type")
        if keys.dim() != 1 or not keys.shape == values.shape == weights.shape:
            raise _damaged(where, f"level {level} has tables of unlike sizes")
        if len(keys) and (keys[0] < 0 or keys[-1] >= rows * vocabulary_size or bool((keys.diff() <= 0).any())):
            raise _damaged(where, f"level {level} has keys out of order or out of range")
        # A comparison with what is no number is false.
        if not bool(((values >= 0) & (values <= 1 + 1e-9) & (weights >= 0) & weights.isfinite()).all()):
            raise _damaged(where, f"level {level} holds values that are no probabilities")
        rows = len(keys)
    return Ngram(config, vocabulary_size, tables)


def _damaged(where: str, what: str) -> errors.IntegrityError:
    return errors.IntegrityError(f"{where}: {what}; restore the file from a copy")
