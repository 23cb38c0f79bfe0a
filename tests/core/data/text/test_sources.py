"""Tests of resolving, checking and staging the files of a source."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import pathlib
import tarfile
import threading
import zipfile
from collections.abc import Callable

import pyarrow as pa
import pytest
from pyarrow import parquet

from core import errors
from core.config import corpus_settings
from core.data.text import compression, extensions, source_files, sources
from core.storage import location

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
}


def local(path: pathlib.Path) -> location.Location:
    return location.Location.parse(str(path))


def stored(path: pathlib.Path, content: bytes) -> location.Location:
    path.write_bytes(content)
    return local(path)


def resolved(source: corpus_settings.SourceConfig, folder: pathlib.Path, **sha256: str) -> list[list[str]]:
    groups = source_files.resolve(source, "corpus.train", sha256, str(folder))
    return [[str(file).replace(f"{folder}/", "") for file in group] for group in groups]


def test_wildcards_give_sorted_files_and_pair_the_sides(tmp_path: pathlib.Path) -> None:
    for name in ("b.en", "a.en", "a.fr", "b.fr", "[1].txt"):
        (tmp_path / name).write_text("x\n")
    assert resolved(corpus_settings.SourceConfig(text=("*.en", "a.fr")), tmp_path) == [["a.en"], ["b.en"], ["a.fr"]]
    assert resolved(corpus_settings.SourceConfig(tsv=("[1].txt",)), tmp_path) == [["[1].txt"]]
    pairs = corpus_settings.SourceConfig(source=("*.en",), target=("*.fr",))
    assert resolved(pairs, tmp_path) == [["a.en", "a.fr"], ["b.en", "b.fr"]]


def test_a_source_may_have_several_targets_but_a_pair_occurs_once(tmp_path: pathlib.Path) -> None:
    for name in ("a.en", "a.fr", "b.fr"):
        (tmp_path / name).write_text("x\n")
    several = corpus_settings.SourceConfig(source=("a.en", "a.en"), target=("a.fr", "b.fr"))
    assert resolved(several, tmp_path) == [["a.en", "a.fr"], ["a.en", "b.fr"]]
    twice = corpus_settings.SourceConfig(source=("a.en", "a.en"), target=("a.fr", "a.fr"))
    with pytest.raises(errors.UsageError, match=r"a\.en' with '.*a\.fr' is named twice"):
        resolved(twice, tmp_path)


def test_invalid_sources_are_rejected_with_the_name_of_the_setting(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "pipe")
    with pytest.raises(errors.DataError, match=r"^corpus\.train\.text: 'missing\.\*' matches no file"):
        resolved(corpus_settings.SourceConfig(text=("a.txt", "missing.*")), tmp_path)
    for name in ("folder", "/dev/zero"):
        with pytest.raises(errors.UsageError, match="not a regular file"):
            resolved(corpus_settings.SourceConfig(text=(name,)), tmp_path)
    with pytest.raises(errors.UsageError, match="named twice"):
        resolved(corpus_settings.SourceConfig(text=("a.txt", "*.txt")), tmp_path)
    with pytest.raises(errors.UsageError, match=r"sha256: has no entry for https://example\.org/a\.txt"):
        resolved(corpus_settings.SourceConfig(text=("https://example.org/a.txt",)), tmp_path)


def test_unpaired_files_are_listed(tmp_path: pathlib.Path) -> None:
    for name in ("a.en", "b.en", "a.fr"):
        (tmp_path / name).write_text("x\n")
    with pytest.raises(errors.UsageError, match=r"2 source files but 1 target files.*b\.en"):
        resolved(corpus_settings.SourceConfig(source=("*.en",), target=("*.fr",)), tmp_path)


def tarred(content: bytes) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("a.txt")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("text\n".encode("utf-16"), "UTF-16", id="UTF-16"),
        pytest.param("text\n".encode("utf-16-le") * 9, "binary", id="UTF-16 without a mark"),
        pytest.param(b"\0" * 1000, "binary", id="zeros"),
        pytest.param(gzip.compress(b"text"), r"gzip; give it the extension \.gz", id="gzip"),
        pytest.param(lzma.compress(b"text"), "xz", id="xz"),
        pytest.param(bz2.compress(b"text"), "bzip2", id="bzip2"),
        pytest.param(b"PK\x03\x04rest", r"zip; give it the extension \.zip", id="zip"),
        pytest.param(b"the cat\rthe dog\ra king", "no line feed, but 2 carriage returns; convert", id="old Mac"),
        pytest.param(tarred(b"text\n" * 9000), "a tar archive; unpack it", id="tar"),
        pytest.param(
            "déjà vu\n".encode("latin-1") * 6 + b"plain\n" * 50,
            r"not UTF-8\? 10\.7 % invalid lines",
            id="Latin-1",
        ),
    ],
)
def test_files_that_are_not_text_are_rejected(tmp_path: pathlib.Path, content: bytes, message: str) -> None:
    file = stored(tmp_path / "a.txt", content)
    with pytest.raises(errors.DataError, match=rf"a\.txt: .*{message}"):
        sources.check(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        "\ufeffété\n".encode(),
        b"caf\xe9\n" + b"plain\n" * 9,  # a single bad line is left to the filters
        b"a\0b\nplain\n" * 9,
        b"a\rb\nplain\n",  # a carriage return within a line
        b"a single line\r",
        "é".encode() * sources.SAMPLE_BYTES + b"\n",  # the sample may end within a character
    ],
)
def test_text_with_few_invalid_lines_is_accepted(tmp_path: pathlib.Path, content: bytes) -> None:
    sources.check(stored(tmp_path / "a.txt", content))


def test_more_than_a_twentieth_of_invalid_lines_is_rejected() -> None:
    sources.check_share("a.txt", 100, 5)
    with pytest.raises(errors.DataError, match=r"a\.txt: 6\.0 % of the rows are not valid JSON"):
        sources.check_share("a.txt", 100, 6, "invalid_json")
    with pytest.raises(errors.DataError, match=r"a\.txt: not UTF-8\? 6\.0 %"):
        sources.check_share("a.txt", 100, 6)


@pytest.mark.parametrize("ending", extensions.COMPRESSED)
def test_compressed_files_are_staged_under_a_name_with_their_hash(tmp_path: pathlib.Path, ending: str) -> None:
    compress, text = COMPRESSORS[ending], "déjà vu\n".encode() * 1000
    file = stored(tmp_path / f"my book.txt{ending}", compress(text[:3000]) + compress(text[3000:]))
    folder = local(tmp_path / "staged")
    plain = sources.stage(source_files.File(file), folder)
    assert plain.read_bytes() == text
    assert plain.name == f"my-book-{hashlib.sha256(text).hexdigest()[:16]}.txt"
    assert sources.stage(source_files.File(file), folder) == plain
    assert folder.list_names() == [plain.name]


def test_staging_to_an_object_store(tmp_path: pathlib.Path) -> None:
    file = stored(tmp_path / "a.gz", gzip.compress(b"a\nb\n"))
    plain = sources.stage(source_files.File(file), location.Location.parse("memory://staging-test"))
    try:
        assert plain.read_bytes() == b"a\nb\n"
    finally:
        plain.remove()


@pytest.mark.parametrize("name", ["pipe", "pipe.gz", "pipe.jsonl"])
def test_a_pipe_is_copied_and_is_then_a_file_like_others(tmp_path: pathlib.Path, name: str) -> None:
    text = "déjà vu\n".encode() * 20_000  # more than a pipe holds
    rows = "".join(json.dumps({"t": "déjà vu"}) + "\n" for _ in range(20_000)).encode()
    content = {"pipe": text, "pipe.gz": gzip.compress(text), "pipe.jsonl": rows}[name]
    os.mkfifo(tmp_path / name)
    file = source_files.File(local(tmp_path / name), columns=("t",) if name == "pipe.jsonl" else ())
    plain = tmp_path / "plain.txt"
    plain.write_bytes(b"x\n")
    for _ in range(2):  # equal content has the same name
        writer = threading.Thread(target=(tmp_path / name).write_bytes, args=(content,))
        writer.start()
        groups = sources.stage_streams([(file, source_files.File(local(plain)))], local(tmp_path / "staged"), {}, False)
        writer.join()
        ((staged, other),) = groups
        assert staged.origin.read_bytes() == text
        assert staged.origin.name == f"pipe-{hashlib.sha256(text).hexdigest()[:16]}.txt"
        assert staged.is_plain
        assert other.origin == local(plain)


def test_plain_files_are_not_copied(tmp_path: pathlib.Path) -> None:
    file = stored(tmp_path / "a.txt", b"a\n")
    assert not sources.needs_staging(source_files.File(file), None)
    assert (
        sources.stage(source_files.File(file), local(tmp_path / "staged"), hashlib.sha256(b"a\n").hexdigest()) == file
    )
    assert not (tmp_path / "staged").exists()


@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
def test_a_wrong_checksum_is_rejected(tmp_path: pathlib.Path, name: str) -> None:
    file = stored(tmp_path / name, gzip.compress(b"a\n"))
    settings = {str(file): "0" * 64}
    assert sources.needs_staging(
        source_files.File(file), source_files.expected_sha256(source_files.File(file), settings)
    )
    with pytest.raises(errors.DataError, match="its SHA-256 is"):
        sources.stage(
            source_files.File(file),
            local(tmp_path / "staged"),
            source_files.expected_sha256(source_files.File(file), settings),
        )


def test_the_checksum_of_a_member_is_that_of_its_archive(tmp_path: pathlib.Path) -> None:
    archive, folder = zipped(tmp_path / "a.zip", a=b"a\n", b=b"b\n"), local(tmp_path / "staged")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    source = corpus_settings.SourceConfig(text=("zip://folder/b::a.zip",))
    for given, is_right in ((sha256, True), (hashlib.sha256(b"b\n").hexdigest(), False)):
        settings = {str(archive): given}
        ((file,),) = source_files.resolve(source, "corpus.train", settings, str(tmp_path))
        expected = source_files.expected_sha256(file, settings, str(tmp_path))
        if is_right:
            assert sources.stage(file, folder, expected).read_bytes() == b"b\n"
        else:
            with pytest.raises(errors.DataError, match=f"its SHA-256 is {sha256}"):
                sources.stage(file, folder, expected)


@pytest.mark.parametrize("ending", extensions.COMPRESSED)
def test_damaged_compressed_files_are_rejected_and_leave_no_file(tmp_path: pathlib.Path, ending: str) -> None:
    whole = COMPRESSORS[ending](os.urandom(100_000))
    folder = local(tmp_path / "staged")
    with pytest.raises(errors.DataError, match=f"truncated {ending[1:]} at byte"):
        sources.stage(source_files.File(stored(tmp_path / f"cut{ending}", whole[:-2000])), folder)
    with pytest.raises(errors.DataError, match=f"not valid {ending[1:]}"):
        sources.stage(source_files.File(stored(tmp_path / f"plain{ending}", b"plain text\n" * 99)), folder)
    if ending != ".zst":  # its checksum is optional, and absent here
        with pytest.raises(errors.DataError, match=f"not valid {ending[1:]}"):
            sources.stage(
                source_files.File(stored(tmp_path / f"bent{ending}", whole[:50_000] + b"bent" + whole[50_004:])), folder
            )
    assert folder.list_names() == []


def test_a_decompression_bomb_is_rejected(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "SAFE_SIZE_BYTES", 1 << 22)
    file = stored(tmp_path / "a.gz", gzip.compress(b"\0" * (1 << 23)))
    with pytest.raises(errors.DataError, match="exceeds the decompression limit"):
        sources.stage(source_files.File(file), local(tmp_path / "staged"))
    assert local(tmp_path / "staged").list_names() == []


def test_a_folder_gives_its_visible_files(tmp_path: pathlib.Path) -> None:
    for name in ("b.txt", "a.txt", "_about.txt", ".hidden"):
        (tmp_path / name).write_text("x\n")
    (tmp_path / "inner").mkdir()
    assert resolved(corpus_settings.SourceConfig(text=(str(tmp_path),)), tmp_path) == [["a.txt"], ["b.txt"]]
    with pytest.raises(errors.DataError, match=r"'inner' matches no file"):
        resolved(corpus_settings.SourceConfig(text=("inner",)), tmp_path)


def zipped(path: pathlib.Path, **members: bytes) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", b"")
        for name, content in members.items():
            archive.writestr(f"folder/{name}", content)
    return path


def test_archive_members_are_named_as_in_fsspec_unless_there_is_only_one(tmp_path: pathlib.Path) -> None:
    zipped(tmp_path / "two.zip", a=b"a\n", b=b"b\n")
    text = ("zip://folder/b::two.zip",)
    assert resolved(corpus_settings.SourceConfig(text=text), tmp_path) == [["zip://folder/b::two.zip"]]
    archive, folder = local(tmp_path / "two.zip"), local(tmp_path / "staged")
    assert sources.stage(source_files.File(archive, "folder/b"), folder).read_bytes() == b"b\n"
    packed = local(zipped(tmp_path / "one.zip", a=lzma.compress(b"packed\n")))
    with pytest.raises(errors.DataError, match=r"contains 2 files; name one as zip://NAME::.*folder/a, folder/b"):
        sources.stage(source_files.File(archive), folder)
    with pytest.raises(errors.DataError, match="has no member 'c'"):
        sources.stage(source_files.File(archive, "c"), folder)
    assert sources.stage(source_files.File(packed), folder).read_bytes() == lzma.compress(b"packed\n")
    with pytest.raises(errors.DataError, match=r"bent\.zip: is not valid zip"):
        sources.stage(source_files.File(stored(tmp_path / "bent.zip", b"PK\x03\x04" * 99)), folder)


@pytest.mark.parametrize("form", ["a.jsonl", "a.jsonl.zst", "a.parquet", "zip://folder/rows.jsonl::a.zip"])
def test_columns_of_tables_become_lines_without_breaks_and_tabs(tmp_path: pathlib.Path, form: str) -> None:
    rows = [{"fr": "été\tchaud", "n": 1, "en": "hot\nsummer"}, {"fr": None, "n": 2, "en": "b"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.jsonl.zst").write_bytes(COMPRESSORS[".zst"](lines))
    zipped(tmp_path / "a.zip", **{"rows.jsonl": lines})
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    folder = local(tmp_path / "staged")

    def staged(*columns: str) -> bytes:
        source = corpus_settings.SourceConfig(table=(form,), columns=columns)
        ((file,),) = source_files.resolve(source, "corpus.train", {}, str(tmp_path))
        return sources.stage(file, folder).read_bytes()

    assert staged("en") == b"hot summer\nb\n"
    assert staged("en", "fr") == "hot summer\tété chaud\nb\t\n".encode()
    with pytest.raises(
        errors.DataError, match=r"(row 1 has int, not text, in column 'n'|column 'n' holds int64, not text)"
    ):
        staged("n")
    with pytest.raises(errors.DataError, match=r"has no column 'de'; it"):
        staged("de")


def test_files_that_are_not_tables_are_rejected(tmp_path: pathlib.Path) -> None:
    folder = local(tmp_path / "staged")
    for name, message in (
        ("a.jsonl", "row 1 is not valid JSON"),
        ("a.parquet", "not valid Parquet"),
        ("a", "extensions of a table"),
    ):
        file = source_files.File(stored(tmp_path / name, b"plain text\n"), columns=("en",))
        with pytest.raises(errors.DataError, match=message):
            sources.stage(file, folder)


@pytest.mark.data
def test_the_fra_eng_archive_contains_the_known_text(corpora: pathlib.Path, tmp_path: pathlib.Path) -> None:
    archive = local(corpora / "fra-eng" / "fra-eng.zip")
    plain = sources.stage(source_files.File(archive, "fra-eng/fra.txt"), local(tmp_path))
    expected = "0bb85dbaa1c896844649094d7eaf2e34bee34e84fe362b26ce7e8f2e12aae104"
    assert hashlib.sha256(plain.read_bytes()).hexdigest() == expected


@pytest.mark.data
def test_fra_eng_decompresses_to_the_known_text(corpora: pathlib.Path, tmp_path: pathlib.Path) -> None:
    plain = sources.stage(source_files.File(local(corpora / "fra-eng" / "fra.txt.xz")), local(tmp_path))
    expected = "0bb85dbaa1c896844649094d7eaf2e34bee34e84fe362b26ce7e8f2e12aae104"
    assert sources.stage(source_files.File(plain), local(tmp_path), expected) == plain
