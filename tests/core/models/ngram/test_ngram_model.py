"""N-gram models: scores, states, prediction, Markov chains, and validation of stored tables."""

import math
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from core import errors
from core.models import bundle, weights
from core.models.ngram import mapped, ngram_model
from core.models.ngram import tables as ngram_tables
from core.storage import commit, location, node_cache, verified_files
from tests import s3
from tests.core.decoding import samples
from tests.core.models import counted

STREAM = np.random.default_rng(3).integers(0, 6, size=300).tolist()


@pytest.mark.parametrize("how", ["kneser_ney", "laplace", "good_turing"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_score_is_the_logarithm_of_the_distribution(order: int, how: str) -> None:
    model = counted.estimate(STREAM, 8, order, how).model
    inputs = torch.tensor([[0, 3, 7, 2, 2, 5]])
    features, _ = model(inputs, model.initial_state(1))
    expected = -model.logits(features[0])[range(6), [3, 7, 2, 2, 5, 1]]
    torch.testing.assert_close(counted.nlls(model, [0, 3, 7, 2, 2, 5, 1]), expected)


@pytest.mark.parametrize("how", ["kneser_ney", "laplace", "good_turing"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_predict_is_the_argmax_with_ties_to_the_lowest_id(order: int, how: str) -> None:
    settings = {"epsilons": (0.3, 0.5)} if how == "laplace" else {}
    for seed in range(3):
        stream = np.random.default_rng(seed).zipf(1.6, size=250).clip(max=9).tolist()
        model = counted.estimate(stream, 11, order, how, **settings).model
        inputs = torch.tensor([stream[:60], np.random.default_rng(seed + 9).integers(0, 11, size=60).tolist()])
        features, _ = model(inputs, model.initial_state(2))
        expected = [[row.index(max(row)) for row in model.logits(line).tolist()] for line in features]
        assert [counted.predictions(model, row) for row in inputs.tolist()] == expected


@pytest.mark.parametrize("order", [1, 3, 4])
def test_texts_after_no_token_are_scored_as_if_alone(order: int) -> None:
    model = counted.estimate(STREAM, 6, order, "kneser_ney").model
    texts = [STREAM[10:20], STREAM[50:54], [3], STREAM[30:33]]
    joined = [token for text in texts for token in (ngram_model.NO_TOKEN, *text)]
    tokens_L = torch.tensor(joined)
    scores_L = model.score(tokens_L, model.look_up(tokens_L))
    predicted_L = model.predict(tokens_L, model.look_up(tokens_L), model.followers())
    start = 0
    for text in texts:
        own = slice(start + 2, start + 1 + len(text))  # all but the first
        assert torch.equal(scores_L[own], counted.nlls(model, text))
        assert predicted_L[own].tolist() == counted.predictions(model, text)[:-1]
        start += 1 + len(text)


def test_keys_are_found_in_any_order_and_absent_ones_are_not() -> None:
    keys = torch.tensor([2, 3, 5, 8, 13])
    wanted = torch.tensor([[13, 4, 2, -1], [99, 8, 8, 0]])
    assert ngram_model.find_rows(keys, wanted).tolist() == [[4, -1, 0, -1], [-1, 3, 3, -1]]
    assert ngram_model.find_rows(keys[:0], wanted).tolist() == [[-1] * 4] * 2


LINE_END = 7
RNG = np.random.default_rng(4)
LINES = [RNG.integers(0, 6, RNG.integers(0, 9)).tolist() for _ in range(60)]


@pytest.mark.parametrize("how", ["kneser_ney", "laplace", "good_turing"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_score_of_a_stream_by_a_model_of_lines_is_that_of_its_lines(order: int, how: str) -> None:
    settings = {"epsilons": (0.3, 0.5)} if how == "laplace" else {}
    model = counted.estimate_lines(LINES, 8, order, how, LINE_END, **settings).model
    text = [[0, 1, 5], [3], [], [2, 2, 2, 4], [6, 1]]
    alone = [counted.nlls(model, [LINE_END, *line, LINE_END]) for line in text]
    stream = [LINE_END, *counted.stream_of(text, LINE_END).tolist()]
    torch.testing.assert_close(counted.nlls(model, stream), torch.cat(alone))
    inputs = torch.tensor([stream[:-1]])
    features, _ = model(inputs, model.initial_state(1))
    expected = -model.logits(features[0])[range(len(stream) - 1), stream[1:]]
    torch.testing.assert_close(torch.cat(alone), expected)
    predicted = [row.index(max(row)) for row in model.logits(features[0]).tolist()]
    assert counted.predictions(model, stream[:-1]) == predicted


def test_first_tokens_of_lines_are_more_likely_after_a_line_end_by_a_model_of_lines() -> None:
    # Every line begins with 0 and ends with 1 or 2; in the stream the end of the line before is the context of 0.
    lines = [[0, 3, 1], [0, 4, 2]] * 20
    model = counted.estimate_lines(lines, 8, 3, "kneser_ney", LINE_END).model
    unseen_end = model.distribution(torch.tensor([5, LINE_END]))
    torch.testing.assert_close(unseen_end, model.distribution(torch.tensor([1, LINE_END])))
    assert float(unseen_end[0]) > 0.9


@pytest.mark.parametrize("how", ["kneser_ney", "laplace", "good_turing"])
@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("stream", [[0], [0, 1], [1, 0, 1]])
def test_texts_shorter_than_the_order_are_scored_and_predicted(order: int, how: str, stream: list[int]) -> None:
    model = counted.estimate(stream, 3, order, how).model
    tokens = [1, 0, 1, 2, 0, 0]
    features, _ = model(torch.tensor([tokens[:-1]]), model.initial_state(1))
    logits = model.logits(features[0])
    torch.testing.assert_close(counted.nlls(model, tokens), -logits[range(5), tokens[1:]])
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert counted.predictions(model, tokens[:-1]) == expected


def test_impossible_tokens_have_infinite_nll() -> None:
    model = counted.estimate([0, 1, 0, 1], 3, 2, "laplace", epsilons=(0.0,)).model
    assert counted.nlls(model, [0, 1, 2]).tolist() == [0, math.inf]


@pytest.mark.parametrize("how", ["kneser_ney", "good_turing"])
@pytest.mark.parametrize("order", [1, 2])
def test_distribution_after_k_steps_is_the_kth_matrix_power(order: int, how: str) -> None:
    model = counted.estimate(STREAM, 7, order, how).model
    matrix = torch.stack([model.distribution(torch.tensor([token] * (order - 1))) for token in range(7)])
    for steps in (1, 2, 5):
        expected = torch.linalg.matrix_power(matrix, steps)
        for token in range(7):
            torch.testing.assert_close(model.distribution_after(token, steps), expected[token])


def test_distribution_after_needs_order_1_or_2() -> None:
    with pytest.raises(errors.UsageError, match="order 1 or 2"):
        counted.estimate(STREAM, 7, 3, "kneser_ney").model.distribution_after(0, 2)


@pytest.mark.parametrize("unit", ["stream", "line"])
@pytest.mark.parametrize("order", [1, 3])
def test_ngram_bundle_round_trip(order: int, unit: str, tmp_path: pathlib.Path) -> None:
    codec = samples.codec("word", "a b c d", ("<unk>", "<eos>"))
    made = counted.estimate(STREAM, 6, order, "kneser_ney").model
    if unit == "line":
        made = counted.estimate_lines([[0, 2, 3, 0, 5], [4]], 6, order, "kneser_ney", line_end=1).model
    files = bundle.to_files(bundle.Bundle(made, made.config, {"text": codec}, "eos", "fp32"))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    loaded = bundle.load(location.Location.parse(str(tmp_path)))
    assert isinstance(loaded.model, ngram_model.Ngram)
    assert loaded.config == made.config
    for name, table in made.tables.items():
        assert torch.equal(loaded.model.tables[name], table)


def test_a_file_of_tables_is_verified_once_and_again_when_it_has_changed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified_files, "folder", lambda: tmp_path)
    monkeypatch.setattr(verified_files, "_SETTLED_S", -1.0)
    hashed: list[str] = []
    sha256_of_file = commit.sha256_of_file

    def counted_hash(file: location.Location) -> str:
        hashed.append(file.name)
        return sha256_of_file(file)

    monkeypatch.setattr(commit, "sha256_of_file", counted_hash)
    made = counted.estimate(STREAM, 6, 3, "kneser_ney").model
    data = weights.to_bytes(made.tables)
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    file, sha256 = location.Location.parse(str(path)), commit.sha256_hex(data)
    for _ in range(3):
        loaded = mapped.load(file, sha256, made.config, 6, None)
        assert all(torch.equal(table, made.tables[name]) for name, table in loaded.tables.items())
    assert hashed == ["model.safetensors"]
    with pytest.raises(errors.IntegrityError, match="sizes"):  # as a model of another vocabulary it was not verified
        mapped.load(file, sha256, made.config, 5, None)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(errors.IntegrityError, match="SHA-256"):
        mapped.load(file, sha256, made.config, 6, None)


def test_tables_in_an_object_store_are_mapped_from_a_copy_that_may_go(
    s3_root: location.Location, store: s3.Store, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are those of the node's cache, with its limit, and none is hashed again."""
    monkeypatch.setenv(node_cache.FOLDER_VARIABLE, str(tmp_path))
    made = counted.estimate(STREAM, 6, 3, "kneser_ney").model
    data = weights.to_bytes(made.tables)
    file, sha256 = s3_root.join("model.safetensors"), commit.sha256_hex(data)
    assert file.put_if_absent(data)
    cache = node_cache.NodeCache(len(data))
    first = mapped.load(file, sha256, made.config, 6, cache)
    with store.recording() as asked:
        mapped.load(file, sha256, made.config, 6, cache)
    assert asked.by_kind().keys() == {"HEAD"}
    other = s3_root.join("other")
    assert other.put_if_absent(b"another file")
    cache.open(other, commit.sha256_hex(b"another file"), len(b"another file"), lambda path: path)
    assert sha256 not in {path.stem for path in tmp_path.rglob("*.copy")}
    assert all(torch.equal(table, made.tables[name]) for name, table in first.tables.items())
    file.remove()
    with pytest.raises(errors.IntegrityError, match=r"model\.safetensors: is missing"):
        mapped.load(file, sha256, made.config, 6, cache)
    assert file.put_if_absent(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(errors.IntegrityError, match="expected SHA-256"):
        mapped.load(file, sha256, made.config, 6, cache)


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("keys_2", lambda table: table.flip(0), "order"),
        ("keys_2", lambda table: table + 1000, "range"),
        ("keys_3", lambda table: table[:-1], "sizes"),
        ("probability_1", lambda table: table - 1, "probabilities"),
        ("probability_2", lambda table: table * math.nan, "probabilities"),
        ("backoff_1", lambda table: table / 0, "probabilities"),
    ],
)
def test_inconsistent_tables_are_refused(name: str, damage: object, complaint: str) -> None:
    made = counted.estimate(STREAM, 6, 3, "kneser_ney").model
    tables = made.tables
    assert callable(damage)
    tables[name] = damage(tables[name])
    with pytest.raises(errors.IntegrityError, match=complaint):
        ngram_tables.check(made.config, 6, tables, "here")
    with pytest.raises(errors.IntegrityError, match="order 3"):
        ngram_tables.check(made.config, 6, {**made.tables, "keys_9": tables["keys_3"]}, "here")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda table: table + 1000, "probabilities"),
        (lambda table: -table - 1, "probabilities"),
        (lambda table: table[1:], "sizes"),
        (lambda table: table.long(), "type"),
    ],
)
def test_inconsistent_codes_are_refused(damage: Callable[[torch.Tensor], torch.Tensor], complaint: str) -> None:
    made = counted.estimate(np.random.default_rng(3).integers(0, 60, size=900).tolist(), 60, 3, "kneser_ney").model
    codes = made.tables["backoff_codes_2"]
    with pytest.raises(errors.IntegrityError, match=complaint):
        ngram_tables.check(made.config, 60, {**made.tables, "backoff_codes_2": damage(codes)}, "here")


@pytest.mark.parametrize("line_end", [torch.tensor(6), torch.tensor(-1), torch.tensor([1]), torch.tensor(1.0)])
def test_a_line_end_that_is_not_a_token_is_refused(line_end: torch.Tensor) -> None:
    made = counted.estimate_lines([[0, 2]], 6, 2, "kneser_ney", line_end=1).model
    with pytest.raises(errors.IntegrityError, match="token between lines"):
        ngram_tables.check(made.config, 6, {**made.tables, "line_end": line_end}, "here")
