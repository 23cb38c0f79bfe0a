"""First embeddings from a file of word vectors, as word2vec, GloVe and fastText write them in text form."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from core import errors
from core.models import recurrent_stack
from core.storage import location


def load(place: location.Location, tokens: Sequence[str], model: nn.Module, role: str) -> int:
    """Gives the tokens that a file has vectors for those vectors; all others keep what was drawn.

    A vector stands as it is at the model's input: that of a tied embedding is stored divided by the factor that it
    is multiplied with on its way in.

    Args:
        place: a text file, one word a line with its numbers behind it, apart by spaces; a first line with the number
            of words and of numbers is passed over.
        tokens: the vocabulary, in the order of ids. Of a word that comes twice, the first vector counts.
        model: a language model or an encoder and decoder.
        role: `text`, `source` or `target`: whose embedding.

    Returns:
        How many tokens have a vector now.

    Raises:
        UsageError: the model has no such embedding, or none of full rows.
        DataError: a line is no word with as many numbers as an embedding has.
    """
    where = f"training.embeddings.{role}"
    embedding = getattr(model, "embedding" if role == "text" else f"{role}_embedding", None)
    if not isinstance(embedding, nn.Embedding):
        raise errors.UsageError(
            f"{where}: the model has no embedding with a row for each entry of a {role} vocabulary; drop this "
            "setting, or one_hot and adaptive_cutoffs"
        )
    ids = {token: index for index, token in reversed(list(enumerate(tokens)))}
    scale = embedding.scale if isinstance(embedding, recurrent_stack.TiedEmbedding) else 1.0
    found: set[str] = set()
    with torch.no_grad():
        for word, numbers in _vectors(place, embedding.embedding_dim):
            if word in ids and word not in found:
                found.add(word)
                embedding.weight[ids[word]] = torch.tensor(_parsed(place, word, numbers)) / scale
    return len(found)


def _vectors(place: location.Location, size: int) -> Iterator[tuple[str, list[str]]]:
    """Yields each word of a file with its numbers, not yet parsed; the first word tells how many there are."""
    with place.open() as file:
        width = None
        for index, raw in enumerate(file, start=1):
            line = raw.decode("utf-8", errors="replace").rstrip()
            if index == 1 and len(line.split()) == 2 and line.replace(" ", "").isdigit():
                continue
            width = len(line.split()) - 1 if width is None else width
            # From the right: later words of some files have spaces in them.
            word, *numbers = line.rsplit(" ", width)
            if width != size or len(numbers) != size:
                raise errors.DataError(
                    f"{place}: line {index} is no word with {size} numbers; use model.embedding_size: {width}, or mend "
                    "the line"
                )
            yield word, numbers


def _parsed(place: location.Location, word: str, numbers: list[str]) -> list[float]:
    try:
        vector = [float(number) for number in numbers]
    except ValueError as error:
        raise errors.DataError(
            f"{place}: the vector of {word!r} has an entry that is no number; mend the file"
        ) from error
    if not all(map(math.isfinite, vector)):
        raise errors.DataError(f"{place}: the vector of {word!r} has an entry that is not finite; mend the file")
    return vector
