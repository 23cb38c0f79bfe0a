"""The verb `init`: looks at files, and writes a commented configuration for them."""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from core.config import corpus_settings, loading, presets, schema, yaml_writer
from core.data.series import recognition as series_recognition
from core.data.text import extensions, recognition, source_files, survey
from core.decoding.generation import forecast_errors
from core.evaluation import bleu_tokenizers, expected_quality
from core.storage import location, private_folders
from core.training import step_timing
from jobs import init_comments, paths, run_checks
from workers.fanout import progress_display

MAX_WORKERS = 4
MIN_EPOCHS_SHARE = 0.4
"""Within a time budget, epochs are reduced to this share of the preset's before the model becomes smaller."""
SIDE_BY_SIDE = 1.2  # factor of a step's time: two workers on two cores do the work of about 1.65 (DDP over gloo)
START_MINUTES = 0.7  # allowance for preparation, start of the workers and held-out outputs of a small corpus
SERIES_START_MINUTES = 0.2  # the same for a series, which needs no workers
MAX_HELD_OUT = 1000  # lines of the validation and of the test split
SHARED_LETTERS = 0.5  # share of one side's characters that the other has, from which on they share a vocabulary
SERIES_SPLIT = {"valid": 0.1, "test": 0.2}
MIN_LAGS, MAX_LAGS = 8, 64  # fewest past rows in the input, and most, for a season
MIN_LANES, MIN_WINDOWS = 8, 50  # fewest lanes, and the windows of an epoch for which there are more
LETTERS_OF_A_SUBWORD = 4  # of a vocabulary of some thousands
NUM_RESERVED = 2  # <unk> and <eos>
WORDS_OF_A_SENTENCE = 3  # in the median line
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
    kind: init_comments.Kind | None,
    minutes: float | None,
    overwrite: bool,
    reporter: progress_display.Reporter,
) -> Report:
    """Writes the configuration.

    Args:
        files: text, tables or archives; one file of pairs, or two that are aligned line by line; CSV files of a series.
        output: the YAML file.
        kind: where the user says so; None to decide by the files.
        minutes: budget of training; None for the preset of the corpus's size.
        overwrite: whether an existing file is replaced.
        reporter: shows progress.

    Raises:
        DataError: no corpus can be read from the files.
        LockedError: the output exists.
        StorageError: it cannot be written.
    """
    target = paths.writable(output, "--output")
    with reporter.stage("init", 2, "steps") as stage:
        if kind == "series" or (kind is None and all(map(_is_csv, files))):
            plan = _plan_series(files)
        else:
            with private_folders.scratch() as scratch:
                plan = _plan_lines(files, kind, minutes, location.Location.parse(str(scratch)))
        stage.advance()
        data = init_comments.render(files, output, plan, minutes).encode()
        target.parent.sweep(recursive=False)
        if overwrite:
            target.replace(data)
        elif not target.put_if_absent(data):
            raise run_checks.taken_error(output)
        loading.load(str(target), [])  # what is written passes the checks of every verb
        stage.advance()
    return {
        "verb": "init",
        "config": str(target),
        "kind": plan.kind,
        "lines": plan.num_lines,
        "minutes": round(plan.minutes, 1),
        "expected": plan.expected,
        "notes": plan.notes,
    }


def _is_csv(file: str) -> bool:
    return extensions.plain_name(file).endswith(".csv")


def _plan_lines(
    files: Sequence[str], kind: recognition.Kind | None, minutes: float | None, scratch: location.Location
) -> init_comments.Plan:
    """Returns the plan for text or pairs."""
    recognized = recognition.recognize(files, kind, scratch)
    figures = survey.survey(recognized.groups, recognized.columns)
    is_pairs = recognized.kind == "pairs"
    rows = presets.PAIRS if is_pairs else presets.TEXT
    candidates = _presets(recognized, figures)
    for row in candidates:
        draft = (_draft_pairs if is_pairs else _draft_text)(recognized, figures, row, files[0])
        step_s = step_timing.seconds_per_step(_config(draft.settings), draft.vocabulary_sizes, draft.lengths)
        sharing = SIDE_BY_SIDE if draft.settings["cluster"]["num_workers"] > 1 else 1.0
        epoch_minutes = draft.batches * step_s * sharing / 60
        epochs = _epochs(rows[row].epochs, epoch_minutes, minutes)
        if epochs >= MIN_EPOCHS_SHARE * rows[row].epochs:
            break
    draft.settings["training"]["epochs"] = epochs
    root = draft.settings["root"]
    return init_comments.Plan(
        kind=recognized.kind,
        num_lines=figures.num_lines,
        notes=recognized.notes,
        usage=f"python -m jobs translate --run {root}" if is_pairs else f"python -m jobs generate --run {root}",
        seen=list(init_comments.seen(recognized, figures)),
        settings=draft.settings,
        why=draft.why,
        expected=_expected_quality(recognized, figures, is_shortened=epochs < rows[row].epochs or row < candidates[0]),
        minutes=START_MINUTES + epochs * epoch_minutes,
    )


def _plan_series(files: Sequence[str]) -> init_comments.Plan:
    """Returns the plan for a series."""
    source = corpus_settings.SourceConfig(csv=tuple(files))
    recognized = series_recognition.recognize([group[0] for group in source_files.resolve(source, "FILE", {})])
    values_TC, names = recognized.table.values_TC, recognized.columns
    num_rows = len(values_TC)
    num_training = round(num_rows * (1 - sum(SERIES_SPLIT.values())))
    periods = [forecast_errors.estimate_period(values_TC[:num_training, column]) for column in range(len(names))]
    # The longest season that the input can hold.
    period = max((period for period in periods if period <= MAX_LAGS), default=1)
    lags = min(max(MIN_LAGS, period), max(1, num_training // 4))
    num_test = round(num_rows * SERIES_SPLIT["test"])
    horizons = sorted({horizon for horizon in (1, 4, period, 2 * period) if horizon <= max(1, num_test // 2)})
    corpus = {
        "kind": "series",
        "train": {"csv": list(files)},
        **recognized.settings,
        "inputs": names,
        "targets": names,
        "split": dict(SERIES_SPLIT),
    }
    sections = presets.series_sections(num_training, lags, horizons)
    settings = _settings(files[0], corpus, sections) | {"cluster": {"num_workers": 1}}
    config = _config(settings)
    epoch_s = step_timing.seconds_per_series_epoch(config, values_TC[:num_training])
    shown = [f"{num_rows:,} rows of {len(names)} {'column' if len(names) == 1 else 'columns'}."]
    return init_comments.Plan(
        kind="series",
        num_lines=num_rows,
        notes=recognized.notes,
        usage=f"python -m jobs forecast --run {settings['root']} --input {files[0]} --output forecasts.jsonl",
        seen=[*recognized.notes, *shown],
        settings=settings,
        why=init_comments.reasons_for_series(period, num_rows),
        expected=None,
        minutes=SERIES_START_MINUTES + config.training.epochs * epoch_s / 60,
    )


def _presets(recognized: recognition.Recognized, figures: survey.Survey) -> list[int]:
    """Returns the row of the presets for the corpus's size, and the smaller ones for less time, largest first."""
    if recognized.kind == "pairs":
        return list(range(presets.for_pairs(figures.num_lines), -1, -1))
    side = figures.sides[0]
    num_words = side.num_words
    if side.script is not None:
        num_words = side.num_characters // presets.CHARACTERS_OF_A_WORD
    first = presets.for_text(round(num_words * figures.scale))
    # Never characters for want of time: a pass over them takes longer than one over words.
    kind = presets.TEXT[first].tokenizer
    return [row for row in range(first, -1, -1) if presets.TEXT[row].tokenizer == kind]


def _expected_quality(recognized: recognition.Recognized, figures: survey.Survey, is_shortened: bool) -> str | None:
    """Returns a sentence on the quality to expect; None for text that is unlike all that was measured.

    That is text without spaces, and pairs with a side of one or two words, such as a date: 6,000 of these had BLEU 98.
    """
    is_unlike = any(side.script is not None for side in figures.sides)
    if recognized.kind == "pairs":
        is_unlike |= any(side.words.median < WORDS_OF_A_SENTENCE for side in figures.sides)
    if is_unlike:
        return None
    if recognized.kind == "pairs":
        sentence = expected_quality.sentence("pairs", figures.num_lines)
    else:
        sentence = expected_quality.sentence("text", round(figures.sides[0].num_words * figures.scale))
    return f"{sentence} The budget allows fewer epochs or a smaller model: expect less." if is_shortened else sentence


def _epochs(preset: int, epoch_minutes: float, budget_minutes: float | None) -> int:
    if budget_minutes is None:
        return preset
    return max(1, min(preset, int((budget_minutes - START_MINUTES) / max(epoch_minutes, 1e-9))))


def _config(settings: dict[str, Any]) -> schema.RunConfig:
    return loading.parse(yaml_writer.document(settings), "init")


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
    sections = presets.pairs_sections(preset, shared, max_length)
    if target.script is not None:
        sections["evaluation"] = {"tokenize": bleu_tokenizers.fitting(target.script)}
    return Draft(
        settings=_settings(file, corpus, sections),
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
    tokenizer = "char" if figures.sides[0].script is not None else preset.tokenizer
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
