"""A shortlist of target tokens for each line: the output layer is computed for those of a batch alone.

A line's list has the likeliest translations of its source tokens (see `core.data.translation_table`), the most
frequent target tokens, the reserved ones, and those of a given beginning. The output rows are taken for the union
of the lists of a batch, and what is not in a line's own list is refused to it: so what a line gives does not depend on
the lines beside it. Log-probabilities, and `score_nats` with them, are normalised over the line's list: they are higher
than those of the whole vocabulary, which `score --targets` gives.

Source: Jean et al. 2015, section 3.2 (candidate lists); the scores of a list of its own: Junczys-Dowmunt et al. 2018,
Marian: cost-effective high-quality neural machine translation in C++, section 3.
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
_NAMES = ("candidates_SC", "frequent_V")

Ids = npt.NDArray[np.int64]


class Shortlist:
    """Says which target tokens a line may use."""

    def __init__(
        self, table: translation_table.Table, settings: inference_settings.ShortlistConfig, reserved: Sequence[int]
    ) -> None:
        """Takes what was learnt; `reserved` are the ids that every line needs."""
        self._candidates_SC = table.candidates_SC[:, : settings.candidates]
        self._always = np.union1d(table.frequent_V[: settings.always], reserved).astype(np.int64)

    def of_line(self, source: Sequence[int], begun: Sequence[int] = ()) -> Ids:
        """Returns the ids of a line, rising, given its source tokens and what its translation begins with."""
        own = self._candidates_SC[np.unique(np.array(source, dtype=np.int64))].ravel()
        return np.unique(np.concatenate([self._always, own[own >= 0], np.array(begun, dtype=np.int64)]))


class Narrowed(NamedTuple):
    """What a batch is searched with, tokens going by their places in `ids_U`; None: the whole vocabulary, as it is."""

    model: Any
    memory: Any
    special: constraints.Special
    prefixes: Sequence[Sequence[int]]
    ids_U: Tensor | None

    def translated(self, found: Sequence[Sequence[beam_search.Hypothesis]]) -> list[list[beam_search.Hypothesis]]:
        """Returns hypotheses with the ids of the vocabulary for their tokens."""
        if self.ids_U is None:
            return list(map(list, found))
        ids = self.ids_U.tolist()
        return [[one._replace(tokens=tuple(ids[token] for token in one.tokens)) for one in line] for line in found]


def narrow(
    base: decoders.Single | decoders.Ensemble,
    memory: decoders.Known | decoders.Memories,
    lists: Sequence[Ids],
    special: constraints.Special,
    prefixes: Sequence[Sequence[int]],
    mode: quantization.Rounded | None,
) -> Narrowed:
    """Restricts a decoder to the lists of a batch's lines, which hold the special ids and the prefixes."""
    ids_U = np.unique(np.concatenate(lists))
    refused_NU = np.ones((len(lists), len(ids_U)), dtype=bool)
    for row, own in enumerate(lists):
        refused_NU[row, np.searchsorted(ids_U, own)] = False

    def places(ids: Sequence[int]) -> list[int]:
        found: list[int] = np.searchsorted(ids_U, np.array(ids, dtype=np.int64)).tolist()
        return found

    own_U = torch.from_numpy(ids_U).to(base.device)
    model = base.narrowed(own_U)
    if mode is not None:
        for part in model.parts:
            mode.adopt(part.weight_VF, part.bias_V)
    listed = memory.refusing(torch.from_numpy(refused_NU).to(base.device))
    return Narrowed(model, listed, constraints.Special(*places(special)), [places(one) for one in prefixes], own_U)


def prepare(run: location.Location, dataset: shards.Dataset, candidates: int) -> location.Location:
    """Finds the table of a run's dataset beside it, or learns it and puts it there.

    Raises:
        DataError: there are no training pairs to learn from.
    """
    stem, folder = f"{dataset.index.fingerprint[:16]}-{candidates}", run.join(FOLDER)
    for name in folder.list_names():
        if name.startswith(f"{stem}-"):
            return folder.join(name)
    train = dataset.split("train")
    if train is None or not train.num_lines:
        raise errors.DataError(f"{dataset.folder}: has no training pairs to make a shortlist from; leave it out")
    sizes = {side: codec.tokenizer.vocabulary_size for side, codec in dataset.codecs.items()}
    learnt = translation_table.table(train, sizes["source"], sizes["target"], candidates)
    data = weights.to_bytes({name: torch.from_numpy(part) for name, part in learnt._asdict().items()})
    return folder.join(commit.put_content(folder, stem, ".safetensors", data).name)


def read(place: location.Location) -> translation_table.Table:
    """Reads a table that `prepare` wrote; its name tells its hash.

    Raises:
        IntegrityError: it is damaged.
    """
    data = place.read_bytes()
    named = weights.from_bytes(data, str(place))
    if not place.name.endswith(f"-{commit.sha256_hex(data)[:16]}.safetensors") or set(named) != set(_NAMES):
        raise errors.IntegrityError(f"{place}: is damaged; remove it, it is made anew")
    return translation_table.Table(*(named[name].numpy() for name in _NAMES))


def load(place: location.Location, bundle: bundles.Bundle) -> translation_table.Table:
    """Reads a table for a bundle with the dataset's vocabularies.

    Raises:
        IntegrityError: it is damaged, or of other vocabularies.
    """
    table = read(place)
    sizes = [bundle.codecs[side].tokenizer.vocabulary_size for side in ("source", "target")]
    if [len(part) for part in table] != sizes:
        raise errors.IntegrityError(f"{place}: is of other vocabularies; remove it, it is made anew")
    return table
