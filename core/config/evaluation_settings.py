"""Settings of evaluation: how translations are compared with references."""

from typing import Literal

from core.config import section

BleuTokenizer = Literal["13a", "intl", "zh", "ja-mecab", "char", "none"]


class EvaluationConfig(section.Section):
    """Comparison of translations with references, by `evaluate` and at validations."""

    tokenize: BleuTokenizer = section.schedule(
        "13a",
        "tokenizer of BLEU, as sacreBLEU names it; 13a: words and punctuation of languages with spaces; intl: the same "
        "by Unicode; zh: Chinese characters one by one; ja-mecab: Japanese words (needs sacrebleu[ja]); char: "
        "characters; none: text that is tokenized already",
    )
    lowercase: bool = section.schedule(False, "BLEU and chrF without regard to case (TER never regards it)")
