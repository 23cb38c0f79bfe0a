"""The documentation is true: generated tables are up to date, and named commands, files, tests and settings exist."""

import ast
import functools
import pathlib
import re
from typing import Any

import pytest
import typer

from core.config import error_messages, loading, schema
from jobs import __main__ as main
from tests.architecture import reference, source

PAGES = {
    path: path.read_text()
    for folder in (".", "core", "core/telemetry", "workers", "jobs", "jobs/configs", "k8s", "tests", "tests/benchmarks")
    for path in [source.REPOSITORY / folder / "README.md"]
} | {
    path: path.read_text()
    for name in ("SECURITY.md", "tests/PROMISES.md", "tests/guards/README.md")
    for path in [source.REPOSITORY / name]
}
TEXT = "\n".join(PAGES.values())
FEATURES = re.findall(r"^\| (?P<row>[A-E]\d+) \| [^|]+ \| (?P<keys>[^|]+) \| (?P<tests>[^|]+) \|$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("name", reference.PAGES)
def test_generated_tables_are_up_to_date(name: str) -> None:
    text = PAGES[reference.PAGES[name]]
    assert reference.BLOCK.findall(text) == [name]
    assert reference.regenerate(text) == text, "the table is stale; run make reference"


def test_a_stale_table_is_noticed() -> None:
    text = PAGES[reference.PAGES["settings"]]
    stale = text.replace("| `training.epochs` | integer", "| `training.rounds` | integer")
    assert stale != text
    assert reference.regenerate(stale) == text


def test_the_readme_has_one_page() -> None:
    assert len(PAGES[source.REPOSITORY / "README.md"].splitlines()) <= 250


def test_configurations_of_the_readme_are_valid() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGES[source.REPOSITORY / "README.md"], re.DOTALL)
    assert len(examples) == 4
    for text in examples:
        rest = "" if "name:" in text else "name: example\nroot: runs/example\n"
        rest += "" if "tokenizer:" in text or "kind: series" in text else "tokenizer: {kind: word}\n"
        loading.parse(text + rest, "README.md")


def test_every_setting_has_one_row() -> None:
    row = r"^\| `([A-Za-z_.0-9]+)` \| .* \| (?:identity|schedule|operational) \| .+ \|$"
    rows = re.findall(row, TEXT, re.MULTILINE)
    several = {name for name in rows if rows.count(name) > 1}
    # each kind of model has its own
    assert several == {"model.kind", "model.hidden_size", "model.tie_embeddings", "model.direction", "model.context"}
    assert {"name", "training.scheduled_sampling.end", "cluster.num_workers.max", "scoring.cache.size"} <= set(rows)
    assert set(rows) == reference.names()


@functools.cache
def names_in(path: str) -> set[str]:
    """Returns the names of the tests in a file."""
    tree = ast.parse((source.REPOSITORY / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def check_tests_exist(text: str) -> None:
    """Checks that each test that a row names exists, and that it names one."""
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", text)
    assert named, text
    assert [f"{path}::{name}" for path, name in named if name not in names_in(path)] == []


def promises() -> dict[str, str]:
    """Returns the rows of promises by their ids, those of security with them."""
    texts = [PAGES[source.REPOSITORY / "tests/PROMISES.md"].split("\n## Cannot be measured")[0]]
    texts.append(PAGES[source.REPOSITORY / "SECURITY.md"])
    rows = re.findall(r"^\| (P\d\d|SEC-\d\d) \| (.+) \|$", "\n".join(texts), re.MULTILINE)
    assert len(dict(rows)) == len(rows), "a promise has two rows"
    return dict(rows)


def test_every_promise_has_a_row() -> None:
    expected = {f"P{number:02}" for number in range(1, 43)} | {f"SEC-{number:02}" for number in range(1, 21)}
    assert set(promises()) == expected


@pytest.mark.parametrize("number", promises())
def test_a_promise_has_what_was_measured_and_names_existing_tests(number: str) -> None:
    cells = promises()[number].split(" | ")
    assert all(cells[:3]), "a promise, a figure, and what was measured"
    check_tests_exist(promises()[number])


@pytest.mark.parametrize(("row", "keys", "tests"), FEATURES, ids=[row[0] for row in FEATURES])
def test_a_feature_names_existing_tests_and_settings(row: str, keys: str, tests: str) -> None:
    check_tests_exist(tests)
    known = reference.names()
    for key in re.findall(r"`([a-z_]+\.[A-Za-z_.]+)(?:: [^`]+)?`", keys):
        if key.split(".")[0] in schema.RunConfig.model_fields:
            assert any(name == key or name.startswith(f"{key}.") for name in known), f"{row}: {key} is no setting"


def test_features_of_all_sections_are_listed() -> None:
    assert {row[0][0] for row in FEATURES} == set("ABCDE")
    assert len(FEATURES) > 40


def test_every_packaged_configuration_is_listed() -> None:
    there = {path.name for path in (source.REPOSITORY / "jobs" / "configs").glob("*.yaml")}
    listed = set(re.findall(r"^\| `([a-z0-9-]+\.yaml)` \|", TEXT, re.MULTILINE))
    assert listed == there


def test_documented_commands_exist_with_their_options() -> None:
    verbs: Any = typer.main.get_command(main.app)
    shown = re.findall(r"python -m jobs ([a-z]+)((?:[^\n`\\]|\\\n)*)", TEXT)
    assert {verb for verb, _ in shown} == set(verbs.commands)
    for verb, words in shown:
        # `submit` is followed by another verb and its options.
        given = [verbs.commands[name] for name in (verb, *words.split()[:1]) if name in verbs.commands]
        own = {option for command in given for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", words)) <= own, f"{verb}{words}"


def test_documented_make_targets_and_files_exist() -> None:
    targets = re.findall(r"^([a-z0-9-]+)(%?):", (source.REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"(?:`|^)make ([a-z0-9-]+)", TEXT, re.MULTILINE):
        assert any(name == target or (any_ and name.startswith(target)) for target, any_ in targets), name
    named = re.findall(r"`((?:core|workers|jobs|k8s|tests)/[a-z0-9_./-]+)`", TEXT)
    assert len(named) > 5
    assert [path for path in named if not (source.REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.parent.relative_to(source.REPOSITORY)))
def test_links_lead_to_existing_files_and_titles(path: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[path]):
        file, _, anchor = target.partition("#")
        if "://" in file:
            continue
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, target


OF_OTHERS = re.findall(
    r"^\| (.+) \|$",
    PAGES[source.REPOSITORY / "jobs/configs/README.md"].split("## Coming from another toolkit")[1].split("\n## ")[0],
    re.MULTILINE,
)[2:]


@pytest.mark.parametrize("row", OF_OTHERS, ids=[re.sub(r"[` ]", "", row.partition("|")[0]) for row in OF_OTHERS])
def test_options_of_other_toolkits_are_beside_real_settings(row: str) -> None:
    """And what a configuration with a name of theirs is answered is not another setting than that of the table."""
    here, *others, _ = row.split(" | ")
    ours = re.findall(r"`([a-z_.]+)(?:: [a-z]+)?`", here)
    known = reference.names()
    assert ours
    assert [name for name in ours if name not in known] == []
    theirs = {name.replace("-", "_") for cell in others for name in re.findall(r"`([A-Za-z0-9_-]+)", cell)}
    assert theirs
    for name in theirs - {"batch_size", "optimizer", "patience"} - {setting.rpartition(".")[2] for setting in known}:
        assert name in error_messages.SYNONYMS, f"{name} has no answer"
        answer = error_messages.SYNONYMS[name]
        assert any(setting in answer or answer in setting for setting in ours), f"{name}: {answer}"


def test_the_table_of_other_toolkits_has_the_rows_that_a_reader_needs() -> None:
    assert 25 <= len(OF_OTHERS) <= 50
