"""ARPA files against a file worked by hand, round trips, and files that are not valid."""

import io
import math

import pytest
import torch

from core import errors
from core.models.ngram import arpa, ngram_model, tables
from tests.core.models import counted

# Words have the ids 0 (<unk>), 1 (the end and the beginning of a line), 2 (a) and 3 (b).
UNK, EOS, A, B = range(4)
FILE = b"""
Comments before the header are read over.
\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.5
-0.7\t</s>
-0.4\ta\t-0.3
-0.6\tb\t-0.2

\\2-grams:
-0.3\tb </s>
-0.1\t<s> a\t-0.25
-0.2\ta b\t-0.15

\\3-grams:
-0.05\t<s> a b

\\end\\
"""


def model_of(data: bytes) -> tuple[ngram_model.Ngram, tuple[str, ...]]:
    read = arpa.read([data], "x.arpa")
    tables.check(read.config, 2 + len(read.words), read.stored, "x.arpa")
    return ngram_model.Ngram(read.config, 2 + len(read.words), read.stored), read.words


def log10_of(model: ngram_model.Ngram, *line: int) -> list[float]:
    return [-nll / math.log(10) for nll in counted.nlls(model, [EOS, *line, EOS]).tolist()]


def test_scores_by_an_arpa_file_worked_by_hand() -> None:
    model, words = model_of(FILE)
    assert words == ("a", "b")
    # p(a | <s>), p(b | <s> a); then b(a b) p(</s> | b), as no trigram ends the line.
    assert log10_of(model, A, B) == pytest.approx([-0.1, -0.05, -0.15 - 0.3])
    # b(<s>) p(b); b(b) p(a), as `<s> b` was not seen; b(a) p(</s>), as `b a` was not seen.
    assert log10_of(model, B, A) == pytest.approx([-0.5 - 0.6, -0.2 - 0.4, -0.3 - 0.7])
    assert log10_of(model, UNK) == pytest.approx([-0.5 - 1.0, -0.7])
    assert log10_of(model) == pytest.approx([-0.5 - 0.7])


def test_an_arpa_file_in_pieces_is_the_same() -> None:
    whole, pieces = (
        arpa.read([FILE], "x"),
        arpa.read([FILE[start : start + 7] for start in range(0, len(FILE), 7)], "x"),
    )
    assert all(torch.equal(table, pieces.stored[name]) for name, table in whole.stored.items())


def test_a_model_of_lines_is_written_as_others_read_it() -> None:
    model, words = model_of(FILE)
    out = io.BytesIO()
    assert arpa.write(model, ["<unk>", "<eos>", *words], EOS, out) == 5 + 3 + 1
    expected = FILE.decode().split("read over.\n")[1]
    # In the order of ids, with a back-off weight for every context.
    expected = expected.replace("-1.0\t<unk>\n-99\t<s>\t-0.5\n", "-99\t<s>\t-0.5\n-1\t<unk>\t0\n")
    expected = expected.replace("-0.3\tb </s>\n", "").replace("a b\t-0.15\n", "a b\t-0.15\n-0.3\tb </s>\n")
    assert out.getvalue().decode() == expected


@pytest.mark.parametrize("how", ["kneser_ney", "good_turing"])
@pytest.mark.parametrize("unit", ["stream", "line"])
@pytest.mark.parametrize("prune", [(0,), (0, 1), (0, 0, 12)])
def test_export_and_import_give_the_scores_of_the_model(prune: tuple[int, ...], unit: str, how: str) -> None:
    lines = [[2 + (number * step) % 5 for number in range(step % 7)] for step in range(90)]
    names = ["<unk>", "<eos>", "a", "b", "c", "d", "e"]
    if unit == "line":
        model = counted.estimate_lines(lines, 7, 4, how, EOS, prune=prune).model
    else:
        model = counted.estimate(counted.stream_of(lines, EOS).tolist(), 7, 4, how, prune=prune).model
    out = io.BytesIO()
    arpa.write(model, names, EOS, out)
    back, words = model_of(out.getvalue())
    assert back.config.unit == unit
    assert ["<unk>", "<eos>", *words] == names
    text = [EOS, 2, 3, 2, 0, 4, EOS, EOS, 6, 6, 2, EOS]
    torch.testing.assert_close(counted.nlls(back, text), counted.nlls(model, text), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (b"\\data\\", b"data", "not an ARPA file"),
        (b"ngram 2=3", b"ngram 2=2", "as many n-grams as the header counts"),
        (b"ngram 2=3", b"ngram 2=4", "as many as the header counts"),
        (b"ngram 3=1", b"ngram 3=999999999999999", "as many as the header counts"),
        (b"ngram 3=1", b"ngram 4=1", "do not follow"),
        (b"ngram 3=1\n", b"ngram 3=1\nngram 4=1\nngram 5=1\nngram 6=1\n", "order 6"),
        (b"-0.2\ta b", b"nan\ta b", "not a number"),
        (b"-0.2\ta b", b"x\ta b", "not a number"),
        (b"-0.15", b"inf", "not a number"),
        (b"-0.15", b"400", "not a number"),
        (b"-0.2\ta b", b"0.2\ta b", "above 0"),
        (b"-0.2\ta b", b"-0.2\ta c", "is not among the 1-grams"),
        (b"-0.2\ta b", b"-0.2\ta <s>", "cannot be at this place"),
        (b"-0.2\ta b", b"-0.2\t</s> b", "cannot be at this place"),
        (b"-0.2\ta b", b"-0.2\t<s> a", "occurs twice"),
        (b"-0.6\tb", b"-0.6\ta", "occurs twice"),
        (b"-0.6\tb", b"-0.6\t\xff", "UTF-8"),
        (b"-0.6\tb", b"-0.6\t<eos>", "<eos>"),
        (b"-0.05\t<s> a b", b"-0.05\tb b b", "no 2-gram"),
        (b"-0.05\t<s> a b", b"-0.05\t<s> a b\t-1", "expected a 3-gram"),
        (b"-0.05\t<s> a b", b"-0.05\t<s> a " + b"b" * (1 << 21), "is not among the 1-grams"),
        (b"-0.7\t</s>", b"-0.7\t</t>", "lack </s>"),
        (b"\\end\\", b"", "end"),
    ],
)
def test_a_file_that_is_not_valid_is_refused(old: bytes, new: bytes, complaint: str) -> None:
    assert old in FILE
    with pytest.raises(errors.DataError, match=complaint) as refused:
        arpa.read([FILE.replace(old, new, 1)], "x.arpa")
    assert str(refused.value).startswith("x.arpa: line ")
    assert len(str(refused.value)) < 200


def test_models_that_the_format_cannot_hold_are_refused() -> None:
    with pytest.raises(errors.UsageError, match="laplace"):
        arpa.write(counted.estimate([0, 1, 2, 1], 3, 3, "laplace").model, ["<unk>", "a", "b"], None, io.BytesIO())
    backward = counted.estimate([0, 1, 2, 1], 3, 3, "kneser_ney", direction="backward").model
    with pytest.raises(errors.UsageError, match="read forward"):
        arpa.write(backward, ["<unk>", "a", "b"], None, io.BytesIO())
    model = counted.estimate([0, 1, 2, 1], 3, 2, "kneser_ney").model
    for name in ("a b", "<s>", ""):
        with pytest.raises(errors.UsageError, match="cannot be a word"):
            arpa.write(model, ["<unk>", "a", name], None, io.BytesIO())
