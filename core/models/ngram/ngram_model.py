"""N-gram language model: smoothed probabilities in tables, in back-off form.

Level n has one row for each distinct n-gram of the training text, sorted by key; level 1 one for each entry of the
vocabulary. The key of an n-gram is (row of its first n − 1 tokens at level n − 1) · V + last token, so that a longer
n-gram is found from a shorter one by one binary search, for all positions of a text at once.

In a model whose unit is the line, the token between lines is the end of a line where it is predicted, and the beginning
of one where it is the first of a context. Contexts reach back to the beginning of their line and not further, so a
stream of lines has the score of its lines, one by one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core import errors
from core.config import ngram_settings
from core.models import state as states
from core.models.ngram import tables

NO_TOKEN = -1  # before the beginning of a text
# Contexts whose followers are compared together.
_CONTEXTS_AT_ONCE = 1 << 12


def find_rows(keys_G: Tensor, wanted: Tensor) -> Tensor:
    """Returns the row of each wanted key among sorted keys; -1 if it does not occur or is negative."""
    if not len(keys_G):
        return torch.full_like(wanted, -1)
    # Sorted first: then neighbouring searches read the same part of the table, from the cache of the processor.
    sorted_Q, order_Q = wanted.flatten().sort()
    # A key above all others would be inserted at the end, where there is no row.
    rows_Q = torch.searchsorted(keys_G, sorted_Q).clamp_(max=len(keys_G) - 1)
    rows_Q = torch.where(keys_G[rows_Q] == sorted_Q, rows_Q, -1)
    return torch.empty_like(rows_Q).index_copy_(0, order_Q, rows_Q).view_as(wanted)


class Matches(NamedTuple):
    """The n-grams of one level in a sequence of tokens, at the A positions whose context was seen in training.

    Attributes:
        positions_A: of the last tokens of the n-grams.
        contexts_A: rows, one level below, of the n-grams without their last token.
        ngrams_A: rows of the n-grams; -1 where one was not seen.
    """

    positions_A: Tensor
    contexts_A: Tensor
    ngrams_A: Tensor


class Ngram(nn.Module):
    """Back-off n-gram model of order N, with the interface of a recurrent language model; its state is N − 1 tokens.

    p(w | h) is in the table if the n-gram hw was seen in training, else it is the back-off weight of the context h
    times p(w | h'), where h' is h without its first token (with `laplace` smoothing: times p(w)). Tables are in double
    precision, in which the probabilities after a context sum to 1 within 1e-9.

    Tables: see `core.models.ngram.tables`. They may be mapped files.

    Source: Katz 1987, Estimation of probabilities from sparse data for the language model component of a speech
    recognizer (back-off).
    """

    def __init__(
        self,
        config: ngram_settings.NgramConfig,
        vocabulary_size: int,
        stored: Mapping[str, Tensor],
        file: Path | None = None,
    ) -> None:
        """Makes the model of checked tables, of which `file` is the stored form, if there is one."""
        super().__init__()
        self.file = file
        self.config = config
        self.vocabulary_size = vocabulary_size
        for name, table in sorted(stored.items()):
            self.register_buffer(name, table)

    @property
    def tables(self) -> dict[str, Tensor]:
        """All tables by name."""
        return dict(self.named_buffers())

    def keys(self, level: int) -> Tensor:
        """Returns the sorted keys of a level, which is at least 2."""
        return self.get_buffer(tables.keys(level))

    def probability(self, level: int) -> Tensor:
        """Returns the probability of the last token of each n-gram of a level, given the others."""
        return self.get_buffer(tables.probability(level))

    def backoff(self, level: int, rows: Tensor | slice) -> Tensor:
        """Returns the back-off weights of some n-grams of a level as contexts."""
        codes = self._buffers.get(tables.backoff_codes(level))
        return self.get_buffer(tables.backoff(level))[rows if codes is None else codes[rows]]

    def initial_state(self, batch_size: int) -> states.State:
        """Returns the state before the first token of a text."""
        shape = (batch_size, self.config.order - 1)
        return ((torch.full(shape, NO_TOKEN, device=self.probability(1).device),),)

    def forward(self, tokens_BT: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the contexts (B, T, N − 1) after each position, for `logits`, and the state after the last."""
        # With the N − 1 tokens before the window, so that its first tokens have their contexts.
        tokens_BL = torch.cat([state[0][0], tokens_BT], dim=1)
        width = self.config.order - 1
        # A view: the sliding window copies nothing.
        contexts_BTC = tokens_BL[:, 1:].unfold(1, width, 1)
        return contexts_BTC, ((tokens_BL[:, tokens_BL.shape[1] - width :],),)

    def step(self, tokens_B: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the contexts (B, N − 1) after one more token of each row, and the new state."""
        contexts_B1C, state = self(tokens_B[:, None], state)
        return contexts_B1C[:, 0], state

    def logits(self, contexts_BC: Tensor) -> Tensor:
        """Returns the log-probability of every token after each context; -inf where it is impossible."""
        return self.distributions(contexts_BC).log()

    def distribution(self, context_C: Tensor) -> Tensor:
        """Returns the probability of every token after one context; they sum to 1."""
        return self.distributions(context_C[None, :])[0]

    def distributions(self, contexts_BC: Tensor) -> Tensor:
        """Returns the probability of every token after each context (B, V); those of a context sum to 1."""
        unigram_BV = self.probability(1).expand(len(contexts_BC), -1)
        probabilities_BV = unigram_BV.clone()
        rows = self._contexts(contexts_BC)
        for level in range(2, self.config.order + 1):
            # A context that ends at its line's beginning is complete; further levels change nothing.
            is_cut_B = self._is_cut(contexts_BC, level - 1)[:, -1]
            if self._backs_off_to_unigram:
                probabilities_BV = torch.where(is_cut_B[:, None], probabilities_BV, unigram_BV)
            keys_G = self.keys(level)
            if not len(keys_G):  # the training text was shorter than this n-gram
                continue
            row_B = torch.where(is_cut_B, -1, rows[level - 2][:, -1])
            # All tokens by back-off. A context that was not seen backs off with weight 1; see `score`.
            probabilities_BV *= torch.where(row_B < 0, 1.0, self.backoff(level - 1, row_B))[:, None]
            # Then those seen after a context by their own probabilities: they are a range of keys.
            first_B, last_B = (torch.searchsorted(keys_G, key_B) for key_B in self._key_range(row_B))
            # Below every key: a context that was not seen has an empty range, since its row is negative.
            counts_B = last_B - first_B
            owners = torch.repeat_interleave(counts_B)
            starts = torch.repeat_interleave(first_B - (counts_B.cumsum(0) - counts_B), counts_B)
            seen = starts + torch.arange(len(owners), device=starts.device)
            tokens = keys_G[seen] - row_B[owners] * self.vocabulary_size
            probabilities_BV[owners, tokens] = self.probability(level)[seen]
        return probabilities_BV

    def look_up(self, tokens_L: Tensor) -> list[Matches]:
        """Returns the n-grams of the levels 2 … N that end at each token, for `score` and `predict`.

        A `NO_TOKEN` before a token begins a text.
        """
        matches = []
        # The row of the n − 1 tokens up to each position, as a context.
        context_L, ends_line_L = tokens_L, self._ends_line(tokens_L)
        for level in range(2, self.config.order + 1):
            before_L = context_L.roll(1)
            before_L[:1] = NO_TOKEN
            # Few positions have a long context that was seen: only they are looked up.
            positions_A = ((before_L >= 0) & (tokens_L >= 0)).nonzero().squeeze(1)
            contexts_A = before_L[positions_A]
            ngrams_A = find_rows(self.keys(level), contexts_A * self.vocabulary_size + tokens_L[positions_A])
            matches.append(Matches(positions_A, contexts_A, ngrams_A))
            # What ends a line ends its contexts, too.
            context_L = torch.full_like(tokens_L, NO_TOKEN).index_copy_(0, positions_A, ngrams_A)
            context_L[ends_line_L] = NO_TOKEN
        return matches

    def score(self, tokens_L: Tensor, matches: Sequence[Matches]) -> Tensor:
        """Returns the negative log-probability of each token given those before it, in nats.

        That of an impossible token is infinite; that of a `NO_TOKEN` means nothing.
        """
        unigram_L = self.probability(1)[tokens_L.clamp(min=0)]
        probability_L = unigram_L.clone()
        for level, (positions_A, contexts_A, ngrams_A) in enumerate(matches, start=2):
            if self._backs_off_to_unigram:
                # Before the first token there is nothing, and its probability is that of a unigram anyhow.
                is_cut_L = self._is_cut(tokens_L, level - 1).roll(1)
                probability_L = torch.where(is_cut_L, probability_L, unigram_L)
            if not len(self.keys(level)):  # the training text was shorter than this n-gram
                continue
            # A context that was not seen backs off with weight 1, and is not among the positions.
            backed_off_A = probability_L[positions_A] * self.backoff(level - 1, contexts_A)
            # Row −1 reads an entry that `where` discards.
            probability_L[positions_A] = torch.where(ngrams_A < 0, backed_off_A, self.probability(level)[ngrams_A])
        return -probability_L.log()

    def followers(self) -> "Followers":
        """Returns the most likely seen tokens after contexts, for `predict`; none is looked for yet."""
        return Followers(self)

    def predict(self, tokens_L: Tensor, matches: Sequence[Matches], followers: "Followers") -> Tensor:
        """Returns the most likely token in place of each token, of equally likely ones that with the lowest id.

        Without the distribution over the vocabulary at every position: the most likely token is the most likely
        one seen after the context, or the most likely after the shorter context, if that one was not seen here. If it
        was seen, with a probability below its back-off value, another token may be the most likely: then the
        distribution is computed.
        """
        unigram_L, unigram_max_L = (part.expand(tokens_L.shape) for part in followers.of_no_context)
        # `bound_L` is an upper bound of the probability of every token; `token_L` attains it unless `is_unsure_L`.
        token_L, bound_L = unigram_L.clone(), unigram_max_L.clone()
        is_unsure_L = torch.zeros_like(tokens_L, dtype=torch.bool)
        for level, (positions_A, contexts_A, _) in enumerate(matches, start=2):
            if self._backs_off_to_unigram:
                is_cut_L = self._is_cut(tokens_L, level - 1).roll(1)
                token_L = torch.where(is_cut_L, token_L, unigram_L)
                bound_L = torch.where(is_cut_L, bound_L, unigram_max_L)
                is_unsure_L &= is_cut_L
            if not len(self.keys(level)):  # the training text was shorter than this n-gram
                continue
            token_A = token_L[positions_A]
            bound_A = bound_L[positions_A] * self.backoff(level - 1, contexts_A)
            seen_token_A, seen_max_A = followers.after(level, contexts_A)
            takes_seen_A = (seen_max_A > bound_A) | ((seen_max_A == bound_A) & (seen_token_A < token_A))
            # A candidate that was seen here has lost its back-off value, and may not attain the bound any more: unsure,
            # unless a seen token exceeds the bound.
            is_unsure_A = is_unsure_L[positions_A] & (seen_max_A <= bound_A)
            open_O = (seen_max_A <= bound_A).nonzero().squeeze(1)
            keys_O = contexts_A[open_O] * self.vocabulary_size + token_A[open_O]
            is_unsure_A[open_O] |= find_rows(self.keys(level), keys_O) >= 0
            token_L[positions_A] = torch.where(takes_seen_A, seen_token_A, token_A)
            bound_L[positions_A] = torch.maximum(seen_max_A, bound_A)
            is_unsure_L[positions_A] = is_unsure_A
        width = self.config.order - 1
        for position in is_unsure_L.nonzero().squeeze(1).tolist():
            context = tokens_L[max(0, position - width) : position]
            missing = context.new_full((width - len(context),), NO_TOKEN)
            token_L[position] = _argmax(self.distribution(torch.cat([missing, context])))
        return token_L

    def distribution_after(self, token: int, steps: int) -> Tensor:
        """Returns the probability of every token `steps` steps after a token, summed over the tokens in between.

        Exact, by dynamic programming: p_{k+1}(w) = Σ_v p_k(v) p(w | v).

        Raises:
            UsageError: the order is above 2, so that the tokens alone are not a Markov chain.

        Source: Zhang et al., Dive into Deep Learning (2021), section 8.1 "Sequence Models" (Markov models).
        """
        if self.config.order > 2:
            raise errors.UsageError(
                f"model.order: steps of a Markov chain need order 1 or 2, this model has {self.config.order}; train a "
                "model of order 2"
            )
        # A model of order 1 has no context.
        probabilities_V = self.distribution(torch.tensor([token][: self.config.order - 1], dtype=torch.int64))
        for _ in range(steps - 1):
            probabilities_V = self._next_step(probabilities_V)
        return probabilities_V

    def _next_step(self, probabilities_V: Tensor) -> Tensor:
        """Returns the distribution of a Markov chain of order 1 (bigrams) one step later, without the matrix (V, V)."""
        unigram_V = self.probability(1)
        if self.config.order == 1:
            return unigram_V
        rows_G, tokens_G = self.keys(2) // self.vocabulary_size, self.keys(2) % self.vocabulary_size
        # Every token by back-off, plus for each seen bigram the difference to its own probability.
        next_V = unigram_V * (probabilities_V * self.backoff(1, slice(None))).sum()
        difference_G = self.probability(2) - self.backoff(1, rows_G) * unigram_V[tokens_G]
        return next_V.index_add(0, tokens_G, probabilities_V[rows_G] * difference_G)

    @property
    def _backs_off_to_unigram(self) -> bool:
        """An unseen n-gram gets the probability of its last token alone, as D2L's Laplace smoothing has it."""
        return self.config.smoothing == "laplace"

    def _contexts(self, tokens_BL: Tensor) -> list[Tensor]:
        """Returns for n = 1 … N − 1 the row of the n-gram that ends at each position; -1 if there is none."""
        rows = [tokens_BL] if self.config.order > 1 else []
        for level in range(2, self.config.order):
            prefix_BL = torch.full_like(tokens_BL, NO_TOKEN)
            # An n-gram that ends at a position continues the one that ended a position earlier.
            prefix_BL[:, 1:] = rows[-1][:, :-1]
            is_none_BL = (prefix_BL < 0) | (tokens_BL < 0) | self._ends_line(tokens_BL)
            keys_BL = torch.where(is_none_BL, -1, prefix_BL * self.vocabulary_size + tokens_BL)
            rows.append(find_rows(self.keys(level), keys_BL))
        return rows

    def _ends_line(self, tokens_BL: Tensor) -> Tensor:
        """Returns where a token ends a line, after which a new context begins; nowhere in a stream."""
        if self.config.unit == "stream":
            return torch.zeros_like(tokens_BL, dtype=torch.bool)
        return tokens_BL == self.get_buffer(tables.LINE_END)

    def _is_cut(self, tokens_XL: Tensor, length: int) -> Tensor:
        """Returns where the `length` tokens up to each position begin before their line; never in a stream.

        There the context is shorter, and not merely unseen: Laplace smoothing tells the two apart.
        """
        if self.config.unit == "stream":
            return torch.zeros_like(tokens_XL, dtype=torch.bool)
        positions_L = torch.arange(tokens_XL.shape[-1], device=tokens_XL.device)
        # The position at which the line of each token begins: that of the line end before it.
        begins_XL = torch.where(self._ends_line(tokens_XL), positions_L, 0)
        begins_XL = torch.where(tokens_XL == NO_TOKEN, positions_L + 1, begins_XL).cummax(-1).values
        return positions_L - begins_XL + 1 < length

    def _key_range(self, row_B: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the ranges [start, stop) of the keys of all n-grams that continue those of some rows."""
        return row_B * self.vocabulary_size, (row_B + 1) * self.vocabulary_size


def _argmax(values_V: Tensor) -> Tensor:
    """Returns the lowest index of the maximum; `torch.argmax` may return any of equal ones."""
    return (values_V == values_V.max()).nonzero()[0, 0]


class Followers:
    """The most likely token seen after each context, looked for when it is first asked for, and then kept.

    Of all contexts at once it would take as long as thousands of lines, and as much memory as half of the model.

    Attributes:
        of_no_context: the most likely token of all, and its probability.
    """

    def __init__(self, model: Ngram) -> None:
        self._model = model
        unigram_V = model.probability(1)
        self.of_no_context = _argmax(unigram_V)[None], unigram_V.max()[None]
        # By level of the n-grams: one more than the row of the most likely one after each context, -1 where there is
        # none, 0 where it was not looked for. Zeros, for which the system has no memory before they are written to.
        self._rows = {
            level: torch.zeros(len(model.probability(level - 1)), dtype=torch.int64, device=unigram_V.device)
            for level in range(2, model.config.order + 1)
        }

    def after(self, level: int, contexts_A: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the most likely token seen after each context, and its probability; V and 0 where none was seen."""
        rows_R, model = self._rows[level], self._model
        new = torch.unique(contexts_A[rows_R[contexts_A] == 0])
        # Bounded: all contexts of a large model have many followers in all.
        for some in torch.split(new, _CONTEXTS_AT_ONCE):
            rows_R[some] = self._find(level, some)
        rows_A = rows_R[contexts_A] - 1
        is_none_A = rows_A < 0
        # They read an entry that `where` discards.
        rows_A[is_none_A] = 0
        tokens_A = torch.where(is_none_A, model.vocabulary_size, model.keys(level)[rows_A] % model.vocabulary_size)
        return tokens_A, torch.where(is_none_A, 0.0, model.probability(level)[rows_A])

    def _find(self, level: int, contexts_C: Tensor) -> Tensor:
        keys_G, size = self._model.keys(level), self._model.vocabulary_size
        first_C, stop_C = (torch.searchsorted(keys_G, (contexts_C + shift) * size) for shift in (0, 1))
        counts_C = stop_C - first_C
        owners = torch.repeat_interleave(counts_C)
        seen = torch.arange(len(owners), device=owners.device) + (first_C - (counts_C.cumsum(0) - counts_C))[owners]
        probability = self._model.probability(level)[seen]
        max_C = probability.new_zeros(len(contexts_C)).scatter_reduce(0, owners, probability, "amax")
        is_max = probability == max_C[owners]
        # Of equally likely tokens the one with the lowest id, whose row is the first.
        none_C = torch.full_like(contexts_C, torch.iinfo(torch.int64).max)
        row_C = none_C.scatter_reduce(0, owners[is_max], seen[is_max], "amin")
        return torch.where(counts_C > 0, row_C + 1, -1)
