"""Generated tables of the documentation: `make reference` writes them, a test holds them up to date.

Settings come from the schema in `core.config`, metrics from `core.telemetry.catalog`, guards from `tests.guards`. Each
table is between two comments, `<!-- reference: NAME -->` and `<!-- end -->`; the text between them is replaced.
"""

import json
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from core.config import autoregressive_settings, corpus_settings, model_settings, ngram_settings, schema, section
from core.telemetry import catalog
from tests.architecture import source
from tests.guards import catalog as guard_catalog

PAGES = {
    "settings": source.REPOSITORY / "jobs" / "configs" / "README.md",
    "metrics": source.REPOSITORY / "core" / "telemetry" / "README.md",
    "guards": source.REPOSITORY / "tests" / "guards" / "README.md",
}
BLOCK = re.compile(r"(?<=<!-- reference: )(?P<name>\w+) -->\n.*?<!-- end -->", re.DOTALL)

Sections = list[tuple[str, str, type[section.Section], set[str]]]  # title, prefix, class, fields shown elsewhere
ALIKE = ("valid", "test")  # sources, whose settings are those of `corpus.train`
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def sections() -> Sections:
    """The groups of settings in the order of a configuration file; the kinds of model one by one."""
    shared = set(model_settings.RecurrentConfig.model_fields)
    recurrent = model_settings.RecurrentConfig
    groups: Sections = [("the run itself", "", schema.RunConfig, set())]
    for name, field in schema.RunConfig.model_fields.items():
        if name == "model":
            groups += [
                ("model (kinds language_model and seq2seq)", "model.", recurrent, set()),
                ("model (kind language_model)", "model.", model_settings.LanguageModelConfig, shared),
                ("model (kind seq2seq)", "model.", model_settings.Seq2SeqConfig, shared),
                ("model (kind ngram)", "model.", ngram_settings.NgramConfig, set()),
                ("model (kind autoregressive)", "model.", autoregressive_settings.AutoregressiveConfig, set()),
            ]
        elif name == "corpora":
            alike = set(corpus_settings.CorpusConfig.model_fields)
            prefix = f"corpora.{section.ANY}."
            groups.append(
                ("corpora (besides the settings of corpus)", prefix, corpus_settings.WeightedCorpusConfig, alike)
            )
        elif inner := _sections_in(field.annotation):
            groups.append((name, f"{name}.", inner[0], set()))
    return groups


def names() -> set[str]:
    """The dotted names of all settings."""
    return {name for _, prefix, kind, elsewhere in sections() for name, *_ in rows(kind, prefix, elsewhere)}


Row = tuple[str, str, str, str, str]


def rows(kind: type[section.Section], prefix: str, elsewhere: set[str]) -> Iterator[Row]:
    """Yields (dotted name, values, default, role, description) of each setting; sections inside are opened."""
    for name, field in kind.model_fields.items():
        inner = [] if name in elsewhere else _sections_in(field.annotation)
        is_group = bool(inner) and (field.is_required() or isinstance(field.default, section.Section))
        if kind is schema.RunConfig and inner:
            continue
        if name not in elsewhere and not is_group:
            default = "required" if field.is_required() else f"`{_yaml(field.default)}`"
            yield f"{prefix}{name}", _values(field), default, section.role_of(field), field.description or ""
        if name not in ALIKE:
            yield from _nested(list(dict.fromkeys(inner)), f"{prefix}{name}.", field.description or "")


def _nested(kinds: list[type[section.Section]], prefix: str, description: str) -> Iterator[Row]:
    """Yields the settings of a section, or of one that has several kinds: each once, with the kinds that have it."""
    if len(kinds) < 2 or not all("kind" in kind.model_fields for kind in kinds):
        for kind in kinds:
            yield from rows(kind, prefix, set())
        return
    by_name: dict[str, list[tuple[type[section.Section], Row]]] = {}
    for kind in kinds:
        for row in rows(kind, prefix, set()):
            by_name.setdefault(row[0], []).append((kind, row))
    for name, alternatives in by_name.items():
        _, values, default, role, own = alternatives[0][1]
        if name == f"{prefix}kind":
            values = " · ".join(row[1] for _, row in alternatives)
            own = "; ".join([description, *(row[4] for _, row in alternatives)])
        elif len(alternatives) < len(kinds):
            own = f"{', '.join(value for kind, _ in alternatives for value in section.kinds_of(kind))}: {own}"
        yield name, values, default, role, own


def settings() -> str:
    """A foldable table for each section."""
    parts = []
    for title, prefix, kind, elsewhere in sections():
        lines = ["| setting | values | default | role | what |", "| --- | --- | --- | --- | --- |"]
        for name, values, default, role, description in rows(kind, prefix, elsewhere):
            lines.append(f"| `{name}` | {_cell(values)} | {default} | {role} | {_cell(description)} |")
        parts.append(f"<details><summary><b>{title}</b></summary>\n\n" + "\n".join(lines) + "\n\n</details>")
    return "\n".join(parts) + "\n"


def metrics() -> str:
    """One table."""
    lines = ["| metric | kind | labels | what |", "| --- | --- | --- | --- |"]
    for metric in catalog.ALL:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {_cell(metric.help)} |")
    return "\n".join(lines) + "\n"


def guards() -> str:
    """A table for each file that has guards."""
    by_file: dict[str, list[str]] = {}
    for guard in guard_catalog.load():
        by_file.setdefault(guard.file, []).append(f"| {_cell(guard.what)} | `{guard.test}` |")
    head = "| without this guard | this test fails |\n| --- | --- |\n"
    return "\n".join(f"**`{file}`**\n\n{head}" + "\n".join(rows) + "\n" for file, rows in by_file.items())


def regenerate(text: str) -> str:
    """Returns the text of a page with its tables as the code has them."""
    tables = {"settings": settings, "metrics": metrics, "guards": guards}
    return BLOCK.sub(lambda match: f"{match['name']} -->\n\n{tables[match['name']]()}\n<!-- end -->", text)


def _classes(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        yield annotation
    if typing.get_origin(annotation) is not typing.Literal:
        for argument in typing.get_args(annotation):
            yield from _classes(argument)


def _sections_in(annotation: Any) -> list[type[section.Section]]:
    return [kind for kind in _classes(annotation) if issubclass(kind, section.Section)]


def _values(field: FieldInfo) -> str:
    kind, null, _ = _kind(field.annotation).partition(" or null")
    limits = [f"{SIGNS[name]} {_yaml(bound)}" for item in field.metadata for name, bound in _bounds(item)]
    return " ".join([kind, ", ".join(limits).replace(str(1 << 63), "2^63")]).strip() + null


def _bounds(item: object) -> Iterator[tuple[str, float]]:
    for name in SIGNS:
        if (bound := getattr(item, name, None)) is not None:
            yield name, bound


def _kind(annotation: Any) -> str:
    """Says what a setting may be, as one would write it in YAML."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " · ".join(_yaml(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(argument) for argument in arguments))
    if origin is typing.Annotated:
        return _kind(arguments[0])
    if origin is tuple:
        inner = dict.fromkeys(_kind(argument) for argument in arguments if argument is not Ellipsis)
        return "list of " + ", ".join(inner)
    if origin is dict:
        return f"mapping to {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, section.Section):
        return "{" + ", ".join(annotation.model_fields) + "}"
    return {bool: "true · false", int: "integer", float: "number", str: "text", types.NoneType: "null"}[annotation]


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    for page in PAGES.values():
        page.write_text(regenerate(page.read_text()))
