"""The verb `init`: looks at files, and writes a commented configuration for them."""

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core import errors
from core.config import loading, presets, schema, yaml_writer
from core.data.text import recognition, survey
from core.storage import location
from core.training import step_timing
from jobs import init_comments
from workers.fanout import progress_display

MAX_WORKERS = 4
MIN_EPOCHS_SHARE = 0.4
"""Within a time budget, epochs are reduced to this share of the preset's before the model becomes smaller."""
SIDE_BY_SIDE = 1.15  # measured factor of a step's time where workers share the memory of a machine and add gradients
START_MINUTES = 0.7  # preparation, start of the workers and held-out outputs of a small corpus
MAX_HELD_OUT = 1000  # lines of the validation and of the test split
SHARED_LETTERS = 0.5  # share of one side's characters that the other has, from which on they share a vocabulary
MIN_LANES, MIN_WINDOWS = 8, 50  # fewest lanes, and the windows of an epoch for which there are more
LETTERS_OF_A_SUBWORD = 4  # of a vocabulary of some thousands
NUM_RESERVED = 2  # <unk> and <eos>
MAX_TOKENS = 250  # filters.max_length at most: longer pairs cost memory, and recurrent models translate them badly

Report = dict[str, Any]


class Draft(NamedTuple):
    """A configuration being chosen.

    Attributes:
        settings: content of the YAML file.
        why: the reason for a setting, by its dotted name.
        vocabulary_sizes: estimates, as `factory.build` takes them.
        lengths: of pairs, the tokens of a typical line of each side.
        batches: batches of an epoch.
    """

    settings: dict[str, Any]
    why: dict[str, str]
    vocabulary_sizes: dict[str, int]
    lengths: tuple[int, int]
    batches: int


def run(
    files: Sequence[str],
    output: str,
    kind: recognition.Kind | None,
    minutes: float | None,
    overwrite: bool,
    reporter: progress_display.Reporter,
) -> Report:
    """Writes the configuration.

    Args:
        files: text, tables or archives; one file of pairs, or two that are aligned line by line.
        output: the YAML file.
        kind: pairs or text, where the user says so; None to decide by the files.
        minutes: budget of training; None for the preset of the corpus's size.
        overwrite: whether an existing file is replaced.
        reporter: shows progress.

    Raises:
        DataError: no corpus can be read from the files.
        LockedError: the output exists.
    """
    target = Path(output)
    if target.exists() and not overwrite:
        raise errors.LockedError(f"--output: {output} exists; name another file, or add --overwrite")
    with tempfile.TemporaryDirectory(prefix="raycurrent-init-") as scratch, reporter.stage("init", 3, "steps") as stage:
        recognized = recognition.recognize(files, kind, location.Location.parse(scratch))
        figures = survey.survey(recognized.groups, recognized.columns)
        stage.advance()
        rows = presets.PAIRS if recognized.kind == "pairs" else presets.TEXT
        for row in _presets(recognized, figures):
            draft = (_draft_pairs if recognized.kind == "pairs" else _draft_text)(recognized, figures, row, files[0])
            step_s = step_timing.seconds_per_step(_config(draft), draft.vocabulary_sizes, draft.lengths)
            epoch_minutes = draft.batches * step_s * _sharing(draft) / 60
            epochs = _epochs(rows[row].epochs, epoch_minutes, minutes)
            if epochs >= MIN_EPOCHS_SHARE * rows[row].epochs:
                break
        draft.settings["training"]["epochs"] = epochs
        estimate = START_MINUTES + epochs * epoch_minutes
        stage.advance()
        text = init_comments.render(files, output, recognized, figures, draft.settings, draft.why, estimate, minutes)
        target.write_text(text, encoding="utf-8")
        loading.load(output, [])  # what is written passes the checks of every verb
        stage.advance()
    return {
        "verb": "init",
        "config": str(target.absolute()),
        "kind": recognized.kind,
        "lines": figures.num_lines,
        "training_minutes": round(estimate, 1),
        "notes": recognized.notes,
    }


def _presets(recognized: recognition.Recognized, figures: survey.Survey) -> list[int]:
    """Returns the row of the presets for the corpus's size, and the smaller ones for less time, largest first."""
    if recognized.kind == "pairs":
        return list(range(presets.for_pairs(figures.num_lines), -1, -1))
    side = figures.sides[0]
    num_words = side.num_words
    if is_spaceless(side, figures):
        num_words = side.num_characters // presets.CHARACTERS_OF_A_WORD
    first = presets.for_text(round(num_words * figures.scale))
    # Never characters for want of time: a pass over them takes longer than one over words.
    kind = presets.TEXT[first].tokenizer
    return [row for row in range(first, -1, -1) if presets.TEXT[row].tokenizer == kind]


def is_spaceless(side: survey.SideSurvey, figures: survey.Survey) -> bool:
    """Returns whether most lines of a side are written without spaces."""
    return side.spaceless > 0.5 * max(1, figures.num_examined - side.empty)


def _epochs(preset: int, epoch_minutes: float, budget_minutes: float | None) -> int:
    if budget_minutes is None:
        return preset
    return max(1, min(preset, int((budget_minutes - START_MINUTES) / max(epoch_minutes, 1e-9))))


def _config(draft: Draft) -> schema.RunConfig:
    return loading.parse(yaml_writer.document(draft.settings), "init")


def _sharing(draft: Draft) -> float:
    return SIDE_BY_SIDE if draft.settings["cluster"]["num_workers"] > 1 else 1.0


def _name(file: str) -> str:
    stem = file.rstrip("/").rpartition("/")[2].partition(".")[0]
    safe = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in stem).strip("-._")
    return safe[:40] or "corpus"


def _held_out(num_lines: int) -> float:
    """Returns the share of the validation split: up to 5 %, and up to `MAX_HELD_OUT` lines."""
    share = min(0.05, MAX_HELD_OUT / num_lines)
    return float(f"{share:.1g}")


def _draft_pairs(recognized: recognition.Recognized, figures: survey.Survey, row: int, file: str) -> Draft:
    preset = presets.PAIRS[row]
    source, target = figures.sides
    shared = _alphabets_overlap(source, target)
    share = _held_out(figures.num_lines)
    # Subwords become longer with the vocabulary: four letters at 8,000 entries, half a letter less for half of them.
    letters = max(2.0, 4.0 + 0.5 * math.log2(preset.vocabulary_size / 8_000))
    num_examined = max(1, figures.num_examined)
    lengths = [max(2, round(side.num_characters / num_examined / letters) + 1) for side in (source, target)]
    longest = max(side.characters.p99 for side in (source, target)) / letters
    max_length = min(MAX_TOKENS, 10 * math.ceil((1.5 * longest + 10) / 10))
    corpus = {
        "kind": "pairs",
        "train": dict(recognized.source),
        "split": {"valid": share, "test": share},
        "cleaning": ["nfc", "spaces", "strip"],
        "filters": {"max_length": max_length, "too_long": "drop", "duplicates": "drop"},
    }
    num_pairs = figures.num_lines * (1 - 2 * share)
    return Draft(
        settings=_settings(file, corpus, presets.pairs_sections(preset, shared, max_length)),
        why=init_comments.reasons_for_pairs(figures, row, share, shared),
        vocabulary_sizes={"source": preset.vocabulary_size, "target": preset.vocabulary_size},
        lengths=(lengths[0], lengths[1]),
        batches=math.ceil(num_pairs * max(lengths) / preset.batch_tokens),
    )


def _alphabets_overlap(source: survey.SideSurvey, target: survey.SideSurvey) -> bool:
    letters = [{char for word in side.distinct_words for char in word if char.isalpha()} for side in (source, target)]
    both = letters[0] & letters[1]
    return len(both) >= SHARED_LETTERS * max(1, min(map(len, letters)))


def _draft_text(recognized: recognition.Recognized, figures: survey.Survey, row: int, file: str) -> Draft:
    preset = presets.TEXT[row]
    tokenizer = "char" if is_spaceless(figures.sides[0], figures) else preset.tokenizer
    share = _held_out(figures.num_lines)
    vocabulary_size, num_tokens = _units(figures, tokenizer, preset.vocabulary_size)
    num_tokens *= 1 - 2 * share
    # An epoch of few windows would be few updates: fewer lanes then.
    num_lanes = preset.num_lanes
    while num_lanes > MIN_LANES and num_tokens < MIN_WINDOWS * num_lanes * preset.window:
        num_lanes //= 2
    corpus = {
        "kind": "text",
        "train": dict(recognized.source),
        "split": {"valid": share, "test": share},
        "cleaning": ["nfc"],
        "line_end": "eos",
    }
    return Draft(
        settings=_settings(file, corpus, presets.text_sections(preset, tokenizer, num_lanes)),
        why=init_comments.reasons_for_text(figures, row, share, tokenizer),
        vocabulary_sizes={"text": vocabulary_size},
        lengths=(preset.window, preset.window),
        batches=math.ceil(num_tokens / (num_lanes * preset.window)),
    )


def _units(figures: survey.Survey, tokenizer: str, max_size: int | None) -> tuple[int, float]:
    """Returns estimates of the size of a text's vocabulary and of its number of tokens, `<eos>` included."""
    side = figures.sides[0]
    if tokenizer == "char":
        size, num_units = side.distinct_characters, float(side.num_characters)
    elif tokenizer == "word":
        frequent = sum(count > 1 for count in side.distinct_words.values())
        size, num_units = min(max_size or frequent, frequent), float(side.num_words)
    else:
        size, num_units = max_size or 0, side.num_characters / LETTERS_OF_A_SUBWORD
    return size + NUM_RESERVED, num_units * figures.scale + figures.num_lines


def _settings(file: str, corpus: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of the file."""
    name = _name(file)
    cluster = {"num_workers": min(len(os.sched_getaffinity(0)), MAX_WORKERS)}
    return {"name": name, "root": f"runs/{name}", "seed": 1, "corpus": corpus, **sections, "cluster": cluster}
