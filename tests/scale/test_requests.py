"""Requests of the driver and of workers, by part: a request more a part is a failed test."""

from typing import Any

import pytest

from core import errors
from core.data.dataset import duplicates, word_counts
from core.decoding.lines import inputs
from tests.jobs import datasets
from tests.scale import fake_store, simulation
from workers.prepare import line_tasks, part_groups

_PART_BYTES = 1 << 13


def _total(measured: simulation.Measured) -> int:
    return measured.store.num() - measured.store.num(stage="lock")


def test_a_new_output_takes_the_same_requests_of_the_driver_for_any_number_of_parts() -> None:
    few, many = simulation.translate(10, 0), simulation.translate(500, 0)
    assert (few.num_computed, many.num_computed) == (10, 500)
    assert _total(many) == _total(few) <= 20


def test_a_resumed_output_takes_a_listing_for_each_thousand_parts_and_a_request_for_each_committed_one() -> None:
    few, many = simulation.translate(10, 5), simulation.translate(1300, 1100)
    assert (few.num_computed, many.num_computed) == (5, 200)
    assert _total(many) - _total(few) == 1 + 1100 - 5, "a second page, and the records"


@pytest.mark.parametrize("num_committed", [0, 1500])
def test_the_first_part_does_not_wait_for_a_request_a_part(num_committed: int) -> None:
    with pytest.raises(simulation.FirstPartError) as caught:
        simulation.translate(2000, num_committed, latency_s=0.05, stop_at_first=True)
    # 2,000 requests would take 100 s, and 1,500 of them ten at a time 7 s.
    assert caught.value.elapsed_s < 5


def test_a_new_dataset_takes_the_same_requests_of_the_driver_for_any_number_of_parts() -> None:
    few, many = simulation.prepare(3 << 24), simulation.prepare(300 << 24)
    assert many.num_computed - few.num_computed == 2 * 297 + 2 * (150 - 3) + 1 + 2, (
        "count lines, encode; count words, shards; two partitions of words"
    )
    assert _total(many) == _total(few) <= 10


def test_a_dataset_is_opened_with_the_same_requests_for_any_number_of_shards() -> None:
    few, many = simulation.open_dataset(2), simulation.open_dataset(500)
    assert _total(many) == _total(few) == 3, "the index, its table, and the tokenizer"


def test_a_dataset_is_opened_without_an_object_for_each_shard() -> None:
    (few_objects, few_bytes), (many_objects, many_bytes) = simulation.hold_dataset(2), simulation.hold_dataset(20_000)
    assert many_objects - few_objects < 500
    # Name, hash and four numbers, held once, and where rows and tokens start: 10 MiB of 100,000 shards.
    assert many_bytes - few_bytes < 20_000 * 160


def test_the_store_counts_as_the_real_client_does() -> None:
    store = fake_store.FakeStore()
    with store.installed() as root:
        assert root.list_names() == []
        assert root.join("x").put_if_absent(b"abc")
        assert not root.join("x").put_if_absent(b"abd")
        assert root.join("x").read_bytes() == b"abc"
        assert root.join("x").exists()
        assert not root.join("y").exists()
        assert root.list_names() == ["x"]
        root.join("x").remove()
    assert {kind: store.num(kind) for kind in ("PUT", "GET", "HEAD", "LIST", "DELETE")} == {
        "PUT": 2, "GET": 1, "HEAD": 2, "LIST": 3, "DELETE": 1,
    }  # fmt: skip


def _prepare(kind: str, num_parts: int, part_bytes: int = _PART_BYTES, **corpus: Any) -> int:
    """Runs `prepare` with a worker in this process and returns the number of requests."""
    store = fake_store.FakeStore()
    text = "".join(f"{line}\n" for line in datasets.sentences(400 * num_parts))[: part_bytes * num_parts]
    with store.installed() as root:
        names = [root.join("a.txt"), root.join("b.txt")]
        for file in names:
            file.put_if_absent(text.rpartition("\n")[0].encode() + b"\n")
        source, target = (file.url for file in names)
        train = {"text": [source]} if kind == "text" else {"source": [source], "target": [target]}
        settings = datasets.config(
            root.url,
            {"kind": kind, "train": train, "split": {"valid": 0.1, "test": 0.1}, **corpus},
            sharding={"part_size_bytes": part_bytes},
        )
        store.requests.clear()
        datasets.run(settings)
    return store.num()


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        # Read for each pass (count lines, count words, encode); its shard and its record, and its shard read once more.
        ("text", 3 + 2 + 1),
        # A file more to read, and two shards more to write, which are read once more, too.
        ("pairs", 6 + 4 + 3),
    ],
)
def test_the_workers_of_prepare_take_so_many_requests_a_part(
    kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where there are many: a file and a record for 64 of them, which count 5 / 64 more.
    monkeypatch.setattr(part_groups, "LEAST_TASKS", 1)
    assert (_prepare(kind, 8) - _prepare(kind, 4)) / 4 <= most


def test_duplicates_are_found_without_a_request_for_each_part_and_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_groups, "LEAST_TASKS", 1)
    monkeypatch.setattr(duplicates, "PARTITION_BYTES", 3072)  # of 128 lines, which two parts have
    num_parts = 32
    plain = _prepare("text", num_parts, 1 << 10)
    found = _prepare("text", num_parts, 1 << 10, filters={"duplicates": "drop"})
    # Of 16 files and 17 partitions; a range and its bounds of each partition in each part's file would be 100 a part.
    assert (found - plain) / num_parts < 20


def test_words_are_merged_without_a_request_for_each_file_and_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_groups, "LEAST_TASKS", 1)
    num_parts, part_bytes = 32, 1 << 10
    plain = _prepare("text", num_parts, part_bytes)
    monkeypatch.setattr(word_counts, "PARTITION_BYTES", part_bytes)
    merged = _prepare("text", num_parts, part_bytes)
    # Of 16 files and 32 partitions; a range and its bounds of each partition in each file would be 32 a part.
    assert (merged - plain) / num_parts < 16


def test_a_part_of_an_input_is_read_at_once_whatever_its_size() -> None:
    store = fake_store.FakeStore(latency_s=0.05)
    line = b"x" * 1023 + b"\n"
    with store.installed() as root:
        sides = []
        for name in ("a.txt", "b.txt"):
            root.join(name).put_if_absent(line * 8192)
            sides.append(inputs.scan(root.join(name), None, 4096, root, "--input"))
        store.requests.clear()
        store.in_series.clear()
        assert len(inputs.read(inputs.parts(sides)[0])) == 4096
    # 4 MiB of each file: its range, and its size, to see that it has not changed.
    assert (store.num("GET"), store.num("HEAD"), store.num()) == (2, 2, 4)
    assert store.in_series.in_series() == 1


def test_a_source_in_a_store_that_changes_while_it_is_encoded_ends_prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    commit_shards = line_tasks._commit_shards

    with fake_store.FakeStore().installed() as root:
        file = root.join("a.txt")
        file.put_if_absent("".join(f"{line}\n" for line in datasets.sentences(400)).encode())

        def change_first(*arguments: Any) -> line_tasks.Record:
            file.replace(file.read_bytes() + b"and a line more\n")
            return commit_shards(*arguments)

        monkeypatch.setattr(line_tasks, "_commit_shards", change_first)
        settings = datasets.config(root.url, {"kind": "text", "train": {"text": [file.url]}})
        with pytest.raises(errors.DataError, match=r"a\.txt: changed while it was being read"):
            datasets.run(settings)
        assert not root.join("dataset", "index.json").exists()
