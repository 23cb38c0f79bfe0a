"""Names of inputs on a command line: the files that they give, and the files that are aligned with those.

Nothing here imports torch, Ray or pyarrow: names are checked before anything heavy is loaded.
"""

import collections
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from core import errors
from core.data.text import extensions
from core.storage import expansion, location, streams
from jobs import paths

Names = str | tuple[str, ...]  # one, or several
Format = Literal["txt", "jsonl", "parquet", "arrow"]


class Aligned(NamedTuple):
    """An input, and the file that is aligned with it line by line, if there is one.

    Attributes:
        stem: the name of the input, for that of its results; empty if there is only one.
        files: both.
    """

    stem: str
    files: tuple[location.Location, ...]


class Named(NamedTuple):
    """The inputs of a call.

    Attributes:
        inputs: sorted by stem, so that the order of names on the command line does not matter.
        options: the options that name the files of each.
    """

    inputs: list[Aligned]
    options: tuple[str, ...]

    @property
    def are_several(self) -> bool:
        """True if results go to a folder with one file for each input: also of a folder or glob with one file."""
        return bool(self.inputs) and bool(self.inputs[0].stem)


class Files(NamedTuple):
    """Inputs and output of a call, as named on the command line, absolute.

    Attributes:
        input: values of `--input`.
        output: value of `--output`.
        aligned: values of `--targets` or `--prefixes`.
        format: value of `--format`.
    """

    input: Names
    output: str
    aligned: Names | None
    format: Format | None


def absolute(texts: Sequence[str], option: str) -> Names:
    """Returns names with absolute locations; keeps `-`."""
    located = tuple(text if text == "-" else str(paths.locate(text, option)) for text in texts)
    return located[0] if len(located) == 1 else located


def find(names: Names, aligned: Names | None, option: str) -> Named:
    """Finds the inputs, and pairs them by name with the files aligned with them; none for standard input.

    Args:
        names: values of `--input`: files, folders and globs.
        aligned: values of `option`, if it is given.
        option: `--targets` or `--prefixes`.

    Raises:
        UsageError: a name gives no file, two inputs would be written to one file, or one has no partner.
    """
    texts, others = _texts(names), _texts(aligned)
    options = ("--input", option) if others else ("--input",)
    if "-" in texts:
        if len(texts) > 1:
            raise errors.UsageError(
                "--input: standard input cannot be combined with other inputs; write it to a file, or name it alone"
            )
        return Named([], options)
    sources = [paths.locate(text, "--input") for text in texts]
    partners = [paths.locate(text, option) for text in others]
    if len(sources) > 1 or not expansion.is_single(sources[0]):
        return Named(_several(sources, partners, option), options)
    if len(partners) > 1 or not all(map(expansion.is_single, partners)):
        raise errors.UsageError(
            f"{option}: names several files, but --input names one; name the file that belongs to it"
        )
    for path, where in zip([*sources, *partners], options, strict=True):
        if not path.exists():
            raise errors.UsageError(f"{where}: {path} does not exist; check the path")
        streams.refuse_device(path, where)
    return Named([Aligned("", (*sources, *partners))], options)


def check_output(named: Named, output: str, format_: Format | None) -> None:
    """Checks that the output of several inputs is a folder, and that only it has a format of its own.

    Raises:
        UsageError: it is not.
    """
    if not named.are_several:
        if format_ is not None:
            raise errors.UsageError(
                "--format: is for several inputs; the ending of --output gives the format of a single one"
            )
        return
    if output == "-":
        raise errors.UsageError("--output: several inputs give a folder of files, not standard output; name a folder")
    path = paths.writable(output, "--output")
    extension = PurePosixPath(path.name).suffix.removeprefix(".")
    is_file = path.is_local and path.path.is_file()
    if is_file or (extension in Format.__args__ and not output.endswith("/")):  # type: ignore[attr-defined]
        remedy = f", and the format with --format {extension}" if extension in Format.__args__ else ""  # type: ignore[attr-defined]
        raise errors.UsageError(
            f"--output: several inputs give a folder of files, and {output} is a file; name a folder{remedy}"
        )


def _texts(names: Names | None) -> Sequence[str]:
    return () if names is None else (names,) if isinstance(names, str) else names


def _several(sources: Sequence[location.Location], partners: Sequence[location.Location], option: str) -> list[Aligned]:
    files = expansion.collect(sources, "--input")
    for file in files:
        # It is the number of a descriptor, another one in each call.
        if streams.is_stream(file.path) and str(file.path).startswith(("/dev/", "/proc/")):
            raise errors.UsageError(
                f"--input: {file.path} has no name for the file of its results; write it to a file, or name it alone"
            )
    stems = _stems(files, "--input")
    if not partners:
        return [Aligned(stem, (stems[stem].path,)) for stem in sorted(stems)]
    pairs = _pair(stems, _stems(expansion.collect(partners, option), option), option)
    return [Aligned(stem, (stems[stem].path, pairs[stem].path)) for stem in sorted(stems)]


def _stems(files: Sequence[expansion.NamedFile], where: str) -> dict[str, expansion.NamedFile]:
    """Returns the files by their names without the extensions of compression and format.

    Raises:
        UsageError: two differ in nothing else.
    """
    by_stem: dict[str, list[expansion.NamedFile]] = collections.defaultdict(list)
    for file in files:
        by_stem[extensions.stem(file.name)].append(file)
    for stem, (first, *others) in by_stem.items():
        if others:
            raise errors.UsageError(
                f"{where}: {first.path} and {others[0].path} have the same name, {stem}, apart from their folders and "
                "extensions, and each input has one file of results; rename one, or name their common folder with a "
                "glob, which keeps the folders below it"
            )
    return {stem: first for stem, (first,) in by_stem.items()}


def _pair(
    inputs: dict[str, expansion.NamedFile], partners: dict[str, expansion.NamedFile], option: str
) -> dict[str, expansion.NamedFile]:
    """Returns the partner of each input, by its stem.

    Names are compared without their extensions; if they still differ, also without an ending that all inputs, or all
    partners, have in common, such as that of a language (`news.en`, `news.de`).

    Raises:
        UsageError: an input or a partner has none.
    """
    if inputs.keys() == partners.keys():
        return partners
    keys, keys_of_partners = _without_common_ending(inputs), _without_common_ending(partners)
    by_key = {key: partners[stem] for stem, key in keys_of_partners.items()}
    rule = "files pair by name, without their extensions"
    for stem, key in keys.items():
        if key not in by_key:
            raise errors.UsageError(f"{option}: no file has the name of {inputs[stem].path} ({key}); {rule}")
    for stem, key in keys_of_partners.items():
        if key not in keys.values():
            raise errors.UsageError(f"{option}: {partners[stem].path} ({key}) has no input of its name; {rule}")
    return {stem: by_key[key] for stem, key in keys.items()}


def _without_common_ending(stems: Sequence[str] | dict[str, expansion.NamedFile]) -> dict[str, str]:
    """Returns by stem what is left of it without the ending that all have in common."""
    endings = {PurePosixPath(stem).suffix for stem in stems}
    ending = endings.pop() if len(endings) == 1 else ""
    return {stem: stem.removesuffix(ending) for stem in stems}
