"""Files of lines in `translate` and `score`: scanned inputs, where their results go, and what is said of them.

A single input has one file of results, or a folder of shards. Several inputs have one plan and one folder with a file
of results each; the parts of each input are its own, so that its rows are those of a call with it alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from core.decoding.lines import inputs, outputs, results
from core.storage import location
from jobs import input_names, paths
from workers.infer import driver


class Scanned(NamedTuple):
    """A scanned input, and the file that is aligned with it.

    Attributes:
        stem: see `input_names.Aligned`.
        files: both.
        parts: its parts.
    """

    stem: str
    files: tuple[inputs.Input, ...]
    parts: Sequence[inputs.Part]


def output(
    kind: results.Kind,
    named: input_names.Named,
    text: str,
    format_: input_names.Format | None,
    keeps_parts: bool = False,
) -> outputs.Output:
    """Returns the output that `--output` names; `keeps_parts` keeps the folder of parts beside a single file.

    Raises:
        UsageError: inputs, output and format do not fit together.
    """
    input_names.check_output(named, text, format_)
    path = paths.writable(text, "--output")
    if not named.are_several:
        return outputs.Output.at(kind, path, text.endswith("/"), "--output", keeps_parts)
    names = tuple(f"{each.stem}.{format_ or 'jsonl'}" for each in named.inputs)
    return outputs.Output(kind, path, None, names)


def scan(
    named: input_names.Named,
    column: str | None,
    part_lines: int,
    target: outputs.Output,
    max_lines: int | None = None,
) -> list[Scanned]:
    """Scans all files; of each input at most `max_lines` are taken, spread over all.

    Raises:
        UsageError: an input would be overwritten, or a file has columns and none is named, or the other way round.
        DataError: a file is damaged, or files that belong together have different numbers of lines.
    """
    all_files = [(path, where) for each in named.inputs for path, where in zip(each.files, named.options, strict=True)]
    target.refuse_inputs([path for path, _ in all_files])
    columns = _columns(all_files, column)
    scanned: list[Scanned] = []
    lines_before = 0
    for number, each in enumerate(named.inputs):
        files = tuple(
            inputs.scan(path, columns[path, where], part_lines, target.copies, where)
            for path, where in zip(each.files, named.options, strict=True)
        )
        origin = inputs.Origin(target.names[number], number, lines_before) if target.names else None
        parts = inputs.parts(files, origin)
        if max_lines is not None:
            parts = inputs.spread(parts, max_lines)
        scanned.append(Scanned(each.stem, files, parts))
        lines_before += files[0].num_lines
    return scanned


def _columns(
    files: Sequence[tuple[location.Location, str]], column: str | None
) -> Mapping[tuple[location.Location, str], str | None]:
    """Returns the column of each file: if only some are tables, `--column` is for those. Prefixes are plain text."""
    of_options = {each for each in files if each[1] != "--prefixes"}
    plain = {each for each in of_options if inputs.form_of(each[0]) == "text"}
    # If all are plain text, none is exempt, so that `inputs.scan` refuses --column.
    exempt = plain if len(plain) < len(of_options) else set()
    return {each: column if each in of_options - exempt else None for each in files}


def plan_entries(scanned: Sequence[Scanned], target: outputs.Output, aligned: str) -> dict[str, Any]:
    """Returns what a plan holds of the files; `aligned` names the entry of those that are aligned with the inputs."""
    identities = [
        {name: file.identity() for name, file in zip(("input", aligned)[: len(each.files)], each.files, strict=True)}
        for each in scanned
    ]
    if not target.names:
        return identities[0]
    by_stem = {each.stem: identity for each, identity in zip(scanned, identities, strict=True)}
    extension = target.names[0].rpartition(".")[2]
    return {outputs.FILES: by_stem, outputs.FORMAT_OF_FILES: extension}


def summary(
    target: outputs.Output,
    records: Sequence[Mapping[str, Any]],
    summarize: Callable[[driver.Totals, int | None], dict[str, Any]],
) -> dict[str, Any]:
    """Returns the figures over all inputs and, if there are several, of each.

    Args:
        target: the output.
        records: the commit records, in order.
        summarize: returns the figures of some parts: those of the input with a number, or of all (None).
    """
    figures = summarize(driver.Totals.of(records), None)
    if target.names:
        own = zip(target.names, outputs.by_file(records, target.names), strict=True)
        figures["files"] = [
            {"file": name, **summarize(driver.Totals.of(records_of_file), number)}
            for number, (name, records_of_file) in enumerate(own)
        ]
    return figures


def report(named: input_names.Named, target: outputs.Output, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a report on files and figures; `figures` are those of the manifest."""
    if not target.names:
        return {"input": str(named.inputs[0].files[0]), "output": str(target.file or target.folder), **figures}
    names = [option.removeprefix("--") for option in named.options]
    files = []
    for each, entry in zip(named.inputs, figures["files"], strict=True):
        located = {name: str(path) for name, path in zip(names, each.files, strict=True)}
        rest = {name: value for name, value in entry.items() if name != "file"}
        files.append({**located, "output": str(target.folder.join(entry["file"])), **rest})
    return {"inputs": len(files), "output": str(target.folder), **figures, "files": files}
