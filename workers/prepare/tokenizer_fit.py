"""Fit of tokenizer and text: words of text without spaces, vocabularies smaller than asked for."""

import logging
from collections.abc import Mapping, Sequence

from core.config import corpus_settings
from core.data.dataset import dataset_index
from core.data.text import scripts
from workers.prepare import line_tasks

_log = logging.getLogger(__name__)


def warnings(
    settings: corpus_settings.TokenizerConfig,
    setting: str,
    scripts_by_column: Mapping[str, scripts.Script | None],
    records: Sequence[line_tasks.Record],
    num_eos: int,
) -> list[str]:
    """Returns a sentence for each column of a corpus without spaces, if the tokenizer splits words at spaces.

    Args:
        settings: settings of the tokenizer.
        setting: name of the settings of the corpus.
        scripts_by_column: writing system of each column without spaces; None for the others.
        records: commit records of the encoded parts.
        num_eos: `<eos>` tokens of a line, 0 or 1, which are not counted.
    """
    if settings.kind not in ("word", "wordpiece"):
        return []
    sentences = []
    for column, script in scripts_by_column.items():
        if script is None:
            continue
        share = _unknown_share(records, column, num_eos)
        unknown = "" if share is None else f"; {100 * share:.1f} % of the validation tokens are unknown"
        sentences.append(
            f"tokenizer.kind: {settings.kind} splits words at spaces, which the {script} text of {setting} ({column}) "
            f"does not have{unknown}; use char, or bpe"
        )
    return sentences


def log_sizes(
    settings: corpus_settings.TokenizerConfig, tokenizers: Mapping[str, dataset_index.TokenizerRecord]
) -> None:
    """Logs vocabularies of subwords that are smaller than asked for: the text gives no more."""
    if settings.load or settings.kind in ("char", "word") or settings.max_size is None:
        return
    for column, record in tokenizers.items():
        if record.vocabulary_size < settings.max_size:
            _log.info(
                "tokenizer.max_size: %d; the text of %s gives a vocabulary of %d",
                settings.max_size, column, record.vocabulary_size,
            )  # fmt: skip


def _unknown_share(records: Sequence[line_tasks.Record], column: str, num_eos: int) -> float | None:
    """Returns the share of unknown tokens in the validation text, without `<eos>`; None where nothing is held out."""
    num_unk, num_tokens = 0, 0
    for record in records:
        # Records that an older release committed have no count.
        if (shard := record["shards"].get("valid")) and (counted := record.get("num_unk", {}).get("valid")):
            num_unk += counted[column]
            num_tokens += shard["tokens"][column] - shard["rows"] * num_eos
    return num_unk / num_tokens if num_tokens > 0 else None
