"""Readers of files, settings and names that a user gives us, which may come from anywhere."""

import gzip
import io
import pathlib
import zipfile
from collections.abc import Callable

import yaml

from core.config import loading, yaml_reader
from core.config.model_settings import LanguageModelConfig
from core.data.series import preparation, reading
from core.data.series import recognition as series_recognition
from core.data.text import compression, corpus, recognition, source_files, sources, tables
from core.decoding.lines import inputs
from core.models import factory, pretrained_embeddings
from core.storage import location, urls
from jobs import paths
from tests.fuzz.artefacts import place, scratch

CONFIGS = pathlib.Path(__file__).parent.parent.parent / "jobs" / "configs"
# Real bombs are tested elsewhere: here a smaller limit lets an input be tried in milliseconds.
MOST_BYTES = 1 << 24


def unpacked(ending: str) -> Callable[[bytes], object]:
    """Returns the reader of a compressed file or an archive with this ending."""

    def read(data: bytes) -> object:
        size = 0
        file = location.Location.parse(f"/x{ending}")
        with compression.unpack(file, "", io.BytesIO(data)) as (_, buffers):
            for buffer in buffers:
                size += len(buffer)
                if size > MOST_BYTES:
                    break
        return size

    return read


def text(data: bytes) -> object:
    """Reads lines of text and of pairs, as a corpus and as an input."""
    file = _written("x.txt", data)
    sources.check(file)
    parts = corpus.cut_by_lines((file,), [corpus.index_lines(file, 3)], 1000)
    count = corpus.count_block(file, 0, file.size_bytes()).num_lines
    lines = [line for part in parts for line in corpus.read_lines(part)]
    assert len(lines) == count == data.count(b"\n") + bool(data and not data.endswith(b"\n"))
    return lines


def table(name: str) -> Callable[[bytes], object]:
    """Returns the reader of a table with a column of text: as a corpus, and as an input."""

    def read(data: bytes) -> object:
        file = _written(name, data)
        scanned = inputs.scan(file, "text", 2, place(scratch()), "--input")
        rows = [row for part in inputs.parts([scanned]) for row in inputs.read(part)]
        assert len(rows) == scanned.num_lines
        return list(tables.lines(file.path, name, ("text",), name))

    return read


def series(name: str, time: str | None) -> Callable[[bytes], object]:
    """Returns the reader of a table of numbers, with a column of times or without."""

    def read(data: bytes) -> object:
        file = source_files.File(_written(name, data))
        prepared = preparation.Preparation(time=time, gaps="interpolate" if time else "refuse")
        found = reading.read([file], ["x"], prepared, "corpus.train")
        return [found.sha256, found.axis and found.axis.to_json()]

    return read


def recognized(name: str) -> Callable[[bytes], object]:
    """Returns what `init` finds in a file."""

    def read(data: bytes) -> object:
        file = _written(name, data)
        return recognition.recognize([str(file.path)], None, place(scratch()))

    return read


def recognized_series(name: str) -> Callable[[bytes], object]:
    """Returns what `init` finds in a file of numbers."""

    def read(data: bytes) -> object:
        return series_recognition.recognize([source_files.File(_written(name, data))])

    return read


def word_vectors(data: bytes) -> object:
    """Loads word vectors into the embedding of a small model."""
    config = LanguageModelConfig(kind="language_model", embedding_size=2, hidden_size=2, num_layers=1)
    model = factory.build(config, {"text": 4}, None)
    loaded = pretrained_embeddings.load(_written("x.vec", data), ["<unk>", "a", "b", "ö"], model, "text")
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    return loaded


def settings(data: bytes) -> object:
    """Reads a configuration file."""
    path = scratch() / "run.yaml"
    path.write_bytes(data)
    config = loading.load(str(path))
    assert loading.parse(loading.dump(config), "again") == config
    return config


def override(data: bytes) -> object:
    """Applies an override of the command line to a configuration."""
    return loading.parse(_CONFIG, "x.yaml", [data.decode(errors="surrogateescape")])


def yaml_text(data: bytes) -> object:
    """Reads YAML; what we accept the library reads, too."""
    read = yaml_reader.read(data.decode(errors="surrogateescape"), "x.yaml")
    node = yaml.compose(data.decode())
    assert (read.data is None) == (node is None or node.tag == "tag:yaml.org,2002:null")
    return read


def uri(data: bytes) -> object:
    """Normalizes a location, which is then normal, and resolves it as the command line does."""
    written = data.decode(errors="surrogateescape")
    normal = urls.normalize(written, "--input", "/base")
    assert urls.normalize(normal, "--input", "/base") == normal
    scheme, _, _ = urls.split(normal)
    # Only what needs no network or driver is opened.
    if scheme in ("file", "memory"):
        found = location.Location.parse(normal)
        assert found.url == normal
    return paths.locate(written, "--input")


def _written(name: str, data: bytes) -> location.Location:
    path = scratch() / name
    path.write_bytes(data)
    return place(path)


_CONFIG = (CONFIGS / "demo-language.yaml").read_text()


def archive(**members: bytes) -> bytes:
    """Returns a zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return file.getvalue()


def gzipped(data: bytes) -> bytes:
    """Returns a gzip file without a time."""
    return gzip.compress(data, mtime=0)
