"""Pretrained embeddings from a file of word vectors, in the text format of word2vec, GloVe and fastText."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from core import errors
from core.models import recurrent_stack
from core.storage import location

MAX_LINE_BYTES = 1 << 20  # a word and some tens of thousands of numbers


def load(file: location.Location, tokens: Sequence[str], model: nn.Module, role: str) -> int:
    """Copies the vectors of the words in a file into the embedding; other tokens keep their initial vectors.

    The vectors of the file are what the recurrent layers get: those of a scaled tied embedding are stored divided by
    its factor.

    Args:
        file: text, in each line a word and its numbers, separated by spaces; a header line (number of words, number
            of dimensions) is skipped.
        tokens: the vocabulary, in the order of ids. Of a word that occurs twice, the first vector counts.
        model: a language model or an encoder-decoder.
        role: the embedding to fill: `text`, `source` or `target`.

    Returns:
        The number of tokens that have a pretrained vector.

    Raises:
        UsageError: the model has no such embedding, or one with narrower rows for rare words.
        DataError: a line is not a word with as many numbers as the embedding has dimensions.
    """
    where = f"training.embeddings.{role}"
    embedding = getattr(model, "embedding" if role == "text" else f"{role}_embedding", None)
    if not isinstance(embedding, nn.Embedding):
        raise errors.UsageError(
            f"{where}: the model has no embedding with a row for each entry of a {role} vocabulary; drop this "
            "setting, or one_hot and adaptive_cutoffs"
        )
    # Reversed: of equal tokens the lowest id is written last, and stays.
    ids = {token: index for index, token in reversed(list(enumerate(tokens)))}
    scale = embedding.scale if isinstance(embedding, recurrent_stack.TiedEmbedding) else 1.0
    loaded: set[str] = set()
    with torch.no_grad():
        for word, numbers in read_vectors(file, embedding.embedding_dim):
            if word in ids and word not in loaded:
                loaded.add(word)
                # Parsed only here: a file has many more words than a vocabulary.
                embedding.weight[ids[word]] = _parse(file, word, numbers) / scale
    return len(loaded)


def read_vectors(file: location.Location, size: int) -> Iterator[tuple[str, list[str]]]:
    """Yields each word of a file with its numbers, not yet parsed; the first word determines how many there are."""
    with file.open() as lines:
        width = None
        # Bounded: what has no line feed would be read into memory as a whole.
        for number, raw in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES + 1), b""), start=1):
            if len(raw) > MAX_LINE_BYTES:
                raise errors.DataError(
                    f"{file}: line {number} is longer than {MAX_LINE_BYTES} bytes; name a text file of word vectors"
                )
            # A word of invalid UTF-8 matches no token; its line still counts in error messages.
            line = raw.decode("utf-8", errors="replace").rstrip()
            if number == 1 and len(line.split()) == 2 and line.replace(" ", "").isdigit():  # word2vec, fastText
                continue
            width = len(line.split()) - 1 if width is None else width
            # Split from the right: some words of published files contain spaces.
            word, *numbers = line.rsplit(" ", width)
            if width != size or len(numbers) != size:
                raise errors.DataError(
                    f"{file}: line {number} is not a word with {size} numbers; use model.embedding_size: {width}, or "
                    "correct the line"
                )
            yield word, numbers


def _parse(file: location.Location, word: str, numbers: list[str]) -> torch.Tensor:
    try:
        vector = torch.tensor([float(number) for number in numbers], dtype=torch.float32)
    except ValueError as error:
        raise errors.DataError(
            f"{file}: the vector of {word!r} has an entry that is not a number; correct the file"
        ) from error
    # As stored: a number may be finite in the text, and too large for a weight.
    if not bool(vector.isfinite().all()):
        raise errors.DataError(f"{file}: the vector of {word!r} has an entry that is not finite; correct the file")
    return vector
