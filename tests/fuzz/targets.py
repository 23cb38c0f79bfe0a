"""The readers that are fuzzed, by name: each with inputs to begin with, and the exit codes that its errors may have."""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from core import errors
from core.data import ngram_counts
from core.data.dataset import shards
from core.models import weights
from tests.fuzz import artefacts, mutations, user_files

USAGE, DATA, INTEGRITY = {2}, {3}, {4}
Seeds = Callable[[], list[bytes]]


class Target(NamedTuple):
    """A reader: any bytes give a value, or an error of ours with one of these exit codes."""

    read: Callable[[bytes], object]
    codes: set[int]
    seeds: Seeds
    mutate: mutations.Mutator = mutations.mutate_bytes


def check(name: str, data: bytes) -> None:
    """Reads an input; raises whatever is neither a value nor an error that the reader may give."""
    target = TARGETS[name]
    try:
        target.read(data)
    except errors.RaycurrentError as error:
        if error.exit_code not in target.codes:
            raise AssertionError(f"exit code {error.exit_code}, not one of {target.codes}: {error}") from error
        if not str(error).isprintable():
            raise AssertionError(f"not one printable line: {error!a}") from error


def is_read(name: str, data: bytes) -> bool:
    """Returns whether an input gives a value."""
    try:
        TARGETS[name].read(data)
    except errors.RaycurrentError:
        return False
    return True


def mutants(name: str, count: int, seed: int) -> Iterator[bytes]:
    """Yields mutations of a target's first inputs, the same for equal seeds."""
    target, chance = TARGETS[name], random.Random(f"{seed} {name}")
    begun = target.seeds()
    for _ in range(count):
        data = chance.choice(begun)
        for _ in range(chance.choice((1, 1, 2, 3))):
            data = target.mutate(data, chance)
        yield data


def _golden(*patterns: str) -> Seeds:
    return lambda: [data for pattern in patterns for data in artefacts.files(pattern)[:4]]


def _shards() -> list[bytes]:
    return [shards.encode_shard({"text": artefacts.ROWS}, range(4), artefacts.SIZES)]


def _parquet(**columns: object) -> Seeds:
    def seeds() -> list[bytes]:
        found = []
        for compression in ("none", "snappy", "zstd"):
            sink = pa.BufferOutputStream()
            parquet.write_table(pa.table(columns), sink, compression=compression, write_page_checksum=False)
            found.append(sink.getvalue().to_pybytes())
        return found

    return seeds


def _packed(ending: str) -> Seeds:
    text = b"a line of text\n" * 40

    def seeds() -> list[bytes]:
        if ending == ".gz":
            return [user_files.gzipped(text), user_files.gzipped(b"") + user_files.gzipped(text)]
        if ending == ".zst":
            return [pa.compress(text, codec="zstd", asbytes=True)]
        if ending == ".zip":
            one = user_files.archive(**{"x.txt": text})
            return [one, user_files.archive(**{"x.txt.gz": user_files.gzipped(text)}), user_files.archive(a=b"", b=b"")]
        import bz2
        import lzma

        return [bz2.compress(text)] if ending == ".bz2" else [lzma.compress(text), lzma.compress(b"") * 2]

    return seeds


_TEXT = [
    "one\ntwo\r\n\xe9\n",
    "\ufeffa b\n\u2028c\n\n",
    "a\0b\nlast",
    "x" * 1500 + "\ny\n",
    "source\ttarget\nä\tö\n" * 9,
]
_CSV = ["x,y\n1,2\n3,4\n", "\ufeffx\n1e3\n7\n-.5\n", 't,x\n"a",1\nb,2\n', "\u2028x,d\n1,2020-02-03\n2,2020-02-01\n"]
_TIMES = ["t,x\n2020-01-01,1\n2020-01-02,\n2020-01-04,3\n", "t,x\n1,2\n3,4\n5,7\n", "x,t\n1,2020-01-31\n2,2020-02-29\n"]
_TIMES += ["t,x\n2020-01-01T00:00:00Z,1\n2020-01-01T01:00:00Z,2\n"]
_JSONL = ['{"text": "a"}\n{"text": null, "b": [1]}\n', '{"text": "\\ud800"}\n\n{"text": 1}\n', '{"text": "é"}']
_VECTORS = ["2 2\na 0.5 1\nö -1 1e-3\n", "b 1 2\nnew york 3 4\n", "a nan 1\n"]
_URIS = ["s3://bucket/key", "data/x.txt", "~/x", "file:///a/../b", "zip://a.txt::b.zip", "memory://a/b", "gs://a@b/c"]
_URIS += ["https://user:pass@host:80/x?y#z", "abfs://c@account/x", "C:\\x", "s3//x", "a" * 300, "/a//./b/"]
_OVERRIDES = ["training.epochs=3", "corpus.cleaning=[spaces, lower]", "model={kind: ngram}", "a.b=*x", "seed=0x1"]
_YAML = [
    "a: [1, {b: c}]\n",
    "x: &a 1\ny: *a\n",
    "a: !!int 3",
    "? [a]\n: b",
    "a: 2020-01-01",
    "a: 'x\n\n y'",
    "- |\n  a\n",
]
_LONG = np.arange(6, dtype=np.uint32).reshape(3, 2)


def _encoded(*texts: str) -> Seeds:
    return lambda: [text.encode() for text in texts]


def _configs() -> list[bytes]:
    return [path.read_bytes() for path in sorted(user_files.CONFIGS.glob("*.yaml"))]


TARGETS: dict[str, Target] = {
    # Our own files.
    "shard": Target(artefacts.shard, INTEGRITY, _shards),
    "dataset-index": Target(
        artefacts.dataset_index, INTEGRITY, _golden("language-model/dataset/index.json"), mutations.mutate_json
    ),
    "series-index": Target(
        artefacts.series_index, INTEGRITY, _golden("series/dataset/index.json"), mutations.mutate_json
    ),
    "series-table": Target(artefacts.series_table, INTEGRITY, _golden("series/dataset/valid/*.arrow")),
    "statistics": Target(
        artefacts.statistics, INTEGRITY, _golden("*/dataset/statistics-*.json"), mutations.mutate_json
    ),
    "part-store": Target(
        artefacts.part_store,
        INTEGRITY,
        _golden("*/outputs/*/_PLAN.json", "*/outputs/*/_MANIFEST.json", "*/outputs/*/_commits/*.json"),
        mutations.mutate_json,
    ),
    "checkpoint-manifest": Target(
        artefacts.checkpoint_manifest,
        INTEGRITY,
        _golden("language-model/checkpoints/step-00000500-e1/MANIFEST.json"),
        mutations.mutate_json,
    ),
    "progress": Target(
        artefacts.progress,
        INTEGRITY,
        _golden("translation/checkpoints/*/training/progress.json"),
        mutations.mutate_json,
    ),
    "tensors": Target(
        artefacts.tensors,
        INTEGRITY,
        _golden("*/outputs/*/*-state-*.safetensors", "*/checkpoints/*/training/hidden.safetensors"),
        mutations.mutate_safetensors,
    ),
    "model-weights": Target(
        artefacts.model_weights,
        INTEGRITY,
        _golden("language-model/checkpoints/step-00000500-e1/bundle/model.safetensors"),
        mutations.mutate_safetensors,
    ),
    "model-settings": Target(
        artefacts.model_settings,
        INTEGRITY,
        _golden("series/checkpoints/*/bundle/model.json"),
        mutations.mutate_json,
    ),
    "shortlist": Target(
        artefacts.shortlist_table,
        INTEGRITY,
        lambda: [
            weights.to_bytes(
                {
                    "candidates_SC": torch.zeros((3, 2), dtype=torch.int32),
                    "frequent_V": torch.arange(4, dtype=torch.int32),
                }
            )
        ],
        mutations.mutate_safetensors,
    ),
    "tokenizer": Target(
        artefacts.tokenizer_json, INTEGRITY, _golden("*/checkpoints/*/bundle/tokenizer*.json"), mutations.mutate_json
    ),
    "results": Target(artefacts.result_rows, INTEGRITY, _golden("*/outputs/*/*.arrow")),
    "ngram-counts": Target(
        artefacts.ngram_table,
        INTEGRITY,
        lambda: [ngram_counts.encode(ngram_counts.Counts(_LONG, np.array([3, 2, 1])))],
    ),
    "run-json": Target(artefacts.run_json, INTEGRITY, _golden("*/run.json"), mutations.mutate_json),
    "run-log": Target(artefacts.run_log, INTEGRITY, _golden("*/metrics/*.jsonl"), mutations.mutate_json_lines),
    "stored-settings": Target(artefacts.stored_settings, INTEGRITY | USAGE, _golden("*/config.yaml")),
    "lock": Target(artefacts.lock, INTEGRITY, _golden("*/_lock/*.json"), mutations.mutate_json),
    # Files, settings and names of a user.
    **{f"unpack{end}": Target(user_files.unpacked(end), DATA, _packed(end)) for end in (".gz", ".xz", ".bz2", ".zst")},
    "unpack.zip": Target(user_files.unpacked(".zip"), DATA, _packed(".zip")),
    "text": Target(user_files.text, DATA, _encoded(*_TEXT)),
    "jsonl": Target(user_files.table("x.jsonl"), DATA, _encoded(*_JSONL), mutations.mutate_json_lines),
    "parquet": Target(user_files.table("x.parquet"), DATA, _parquet(text=["a", None, "é" * 99])),
    "csv": Target(user_files.series("x.csv", None), DATA, _encoded(*_CSV)),
    "csv-times": Target(user_files.series("x.csv", "t"), DATA, _encoded(*_TIMES)),
    "series-parquet": Target(
        user_files.series("x.parquet", "t"),
        DATA,
        _parquet(x=[1.0, 2.0, 5.5], t=["2020-01-01", "2020-01-02", "2020-01-03"]),
    ),
    "recognition": Target(user_files.recognized("y.txt"), DATA, _encoded(*_TEXT, *_CSV)),
    "recognition.jsonl": Target(user_files.recognized("y.jsonl"), DATA, _encoded(*_JSONL), mutations.mutate_json_lines),
    "recognition.csv": Target(user_files.recognized_series("y.csv"), DATA, _encoded(*_CSV, *_TIMES)),
    "word-vectors": Target(user_files.word_vectors, DATA, _encoded(*_VECTORS)),
    "settings": Target(user_files.settings, USAGE, _configs),
    "override": Target(user_files.override, USAGE, _encoded(*_OVERRIDES)),
    "yaml": Target(user_files.yaml_text, USAGE, _encoded(*_YAML)),
    "uri": Target(user_files.uri, USAGE, _encoded(*_URIS)),
}
