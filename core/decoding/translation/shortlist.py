"""Shortlists of target tokens: the output layer is computed only for the likely tokens of a batch.

The shortlist of a line has the most likely translations of its source tokens (see `core.data.translation_table`), the
most frequent target tokens, the reserved ones, and those of a forced prefix. The output layer is restricted to the
union of a batch's shortlists, and tokens outside a line's own shortlist are blocked for it; so the result of a line
does not depend on its batch. Log-probabilities, and with them `score_nats`, are normalized over the line's shortlist:
they are higher than those over the whole vocabulary, which `score --targets` reports.

Source: Jean et al. 2015, On using very large target vocabulary for neural machine translation, section 3.2 (candidate
lists); normalization over a shortlist for each line: Junczys-Dowmunt et al. 2018, Marian: cost-effective high-quality
neural machine translation in C++, section 3.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core import errors
from core.config import inference_settings
from core.data import translation_table
from core.data.dataset import shards
from core.decoding.translation import beam_search, constraints, decoders
from core.models import bundle as bundles
from core.models import quantization, weights
from core.storage import commit, location

FOLDER = "shortlists"
_NAMES = ("candidates_SC", "frequent_V")  # stored: the fields of `translation_table.Table`

Ids = npt.NDArray[np.int64]


class Shortlister:
    """Selects the target tokens that are allowed in the translation of a line."""

    def __init__(
        self, table: translation_table.Table, settings: inference_settings.ShortlistConfig, reserved: Sequence[int]
    ) -> None:
        """Takes a translation table; `reserved` are ids that every line needs."""
        self._candidates_SC = table.candidates_SC[:, : settings.candidates]
        self._always = np.union1d(table.frequent_V[: settings.always], reserved).astype(np.int64)

    def shortlist(self, source: Sequence[int], prefix: Sequence[int] = ()) -> Ids:
        """Returns the sorted target ids for a line's source tokens and the forced prefix of its translation."""
        candidates = self._candidates_SC[np.unique(np.array(source, dtype=np.int64))].ravel()
        # The table is padded with -1.
        return np.unique(np.concatenate([self._always, candidates[candidates >= 0], np.array(prefix, dtype=np.int64)]))


class ShortlistedDecoder(NamedTuple):
    """Decoder of a batch over the U tokens of its shortlists, which are numbered by their position in `ids_U`.

    Attributes:
        decoder: over the U tokens.
        memory: encoded sources, with the tokens that are blocked for each line.
        special: reserved tokens, renumbered.
        prefixes: forced prefixes, renumbered.
        ids_U: vocabulary ids; None: the whole vocabulary, with its own ids.
    """

    decoder: Any
    memory: Any
    special: constraints.SpecialTokens
    prefixes: Sequence[Sequence[int]]
    ids_U: Tensor | None

    def with_vocabulary_ids(
        self, hypotheses: Sequence[Sequence[beam_search.Hypothesis]]
    ) -> list[list[beam_search.Hypothesis]]:
        """Returns the hypotheses of each line with their tokens as vocabulary ids."""
        if self.ids_U is None:
            return list(map(list, hypotheses))
        ids = self.ids_U.tolist()
        return [
            [hypothesis._replace(tokens=tuple(ids[token] for token in hypothesis.tokens)) for hypothesis in line]
            for line in hypotheses
        ]


def restrict(
    decoder: decoders.SingleDecoder | decoders.EnsembleDecoder,
    memory: decoders.SourceMemory | decoders.EnsembleMemory,
    shortlists: Sequence[Ids],
    special: constraints.SpecialTokens,
    prefixes: Sequence[Sequence[int]],
    mode: quantization.DynamicQuantization | None,
) -> ShortlistedDecoder:
    """Restricts a decoder to the shortlists of a batch's lines, which contain the reserved ids and the prefixes."""
    union_U = np.unique(np.concatenate(shortlists))
    blocked_NU = np.ones((len(shortlists), len(union_U)), dtype=bool)
    for line, shortlist in enumerate(shortlists):
        # Exact positions: the union is sorted, and every shortlist is part of it.
        blocked_NU[line, np.searchsorted(union_U, shortlist)] = False

    def renumber(ids: Sequence[int]) -> list[int]:
        # Only ids of the union are renumbered: reserved ones and prefixes are in every shortlist.
        positions: list[int] = np.searchsorted(union_U, np.array(ids, dtype=np.int64)).tolist()
        return positions

    ids_U = torch.from_numpy(union_U).to(decoder.device)
    restricted = decoder.restrict(ids_U)
    if mode is not None:
        # The selected rows of the output layer are new tensors: they, too, are computed in low precision.
        for member in restricted.members:
            mode.add_weights(member.weight_VF, member.bias_V)
    return ShortlistedDecoder(
        decoder=restricted,
        memory=memory.with_blocked(torch.from_numpy(blocked_NU).to(decoder.device)),
        special=constraints.SpecialTokens(*renumber(special)),
        prefixes=[renumber(prefix) for prefix in prefixes],
        ids_U=ids_U,
    )


def prepare(run: location.Location, dataset: shards.Dataset, candidates: int) -> location.Location:
    """Returns the file with the translation table of a run's dataset; estimates and writes it if it is missing.

    Raises:
        DataError: the dataset has no training pairs to estimate it from.
    """
    # The name says what the table depends on; a hash of its content follows.
    stem, folder = f"{dataset.index.fingerprint[:16]}-{candidates}", run.join(FOLDER)
    # Estimated once for a dataset: later calls find it by its name.
    for name in folder.list_names():
        if name.startswith(f"{stem}-"):
            return folder.join(name)
    train = dataset.split("train")
    if train is None or not train.num_lines:
        raise errors.DataError(f"{dataset.folder}: has no training pairs to make a shortlist from; leave it out")
    sizes = {side: codec.tokenizer.vocabulary_size for side, codec in dataset.codecs.items()}
    table = translation_table.estimate(train, sizes["source"], sizes["target"], candidates)
    data = weights.to_bytes({name: torch.from_numpy(array) for name, array in table._asdict().items()})
    # Named by content: two drivers that estimate the table at once write the same file.
    return folder.join(commit.put_content(folder, stem, ".safetensors", data).name)


def read(file: location.Location) -> translation_table.Table:
    """Reads a table that `prepare` wrote; its name holds the hash of its content.

    Raises:
        IntegrityError: it is damaged.
    """
    data = file.read_bytes()
    tensors = weights.from_bytes(data, str(file))
    if not file.name.endswith(f"-{commit.sha256_hex(data)[:16]}.safetensors") or set(tensors) != set(_NAMES):
        raise errors.IntegrityError(f"{file}: the shortlist table is damaged; remove it to have it made again")
    table = translation_table.Table(*(tensors[name].numpy() for name in _NAMES))
    # An id beyond the target tokens would fail at its first use, without the name of the file.
    is_of_form = {array.dtype for array in table} == {np.dtype(np.int32)} and [array.ndim for array in table] == [2, 1]
    if not is_of_form or any(array.size and not -1 <= array.min() <= array.max() < len(table[1]) for array in table):
        raise errors.IntegrityError(f"{file}: is not a shortlist table; remove it to have it made again")
    return table


def load(file: location.Location, bundle: bundles.Bundle) -> translation_table.Table:
    """Reads a table for a bundle with the dataset's vocabularies.

    Raises:
        IntegrityError: it is damaged, or belongs to other vocabularies.
    """
    table = read(file)
    sizes = [bundle.codecs[side].tokenizer.vocabulary_size for side in ("source", "target")]
    # Rows are looked up by token id: a table of another vocabulary would give other words' translations.
    if [len(array) for array in table] != sizes:
        raise errors.IntegrityError(
            f"{file}: the shortlist table belongs to other vocabularies; remove it to have it made again"
        )
    return table
