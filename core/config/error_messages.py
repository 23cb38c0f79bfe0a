"""One-line messages for validation errors: the setting, the mistake, the remedy."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

from core import errors
from core.config import old_names, section, yaml_reader

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "model_type": "a section with names and values",
    "model_attributes_type": "a section with names and values",
    "dict_type": "names and values",
    "tuple_type": "a list",
}
_LIMITS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}

_BATCH = "training.batch_tokens or training.batch_lines (pairs, series), training.num_lanes (text)"
_LENGTH = "decoding.max_length (of translations) or corpus.filters.max_length (of the corpus)"
_WORKERS = "cluster.num_workers, with cluster.use_gpu for GPUs"


def _synonyms(names_by_setting: Mapping[str, str]) -> dict[str, str]:
    return {name: setting for setting, names in names_by_setting.items() for name in names.split()}


# Names that OpenNMT-py, fairseq, JoeyNMT, PyTorch Lightning, Transformers or Dive into Deep Learning give to the
# settings on the left, in whatever section they stand.
SYNONYMS: Mapping[str, str] = _synonyms(
    {
        "name": "run_name experiment experiment_name",
        "root": "output_dir save_dir model_dir default_root_dir dirpath save_model",
        "seed": "random_seed manual_seed",
        "corpus": "data dataset datasets",
        "corpus.train": "train_file train_data trainpref",
        "corpus.valid": "validation_file valid_data dev validpref",
        "corpus.test": "test_file testpref",
        "corpus.train.source and corpus.train.target": "source_lang target_lang src tgt src_file tgt_file",
        "corpus.split.valid": "val_split valid_split validation_split",
        "corpus.cleaning": "lowercase do_lower_case",
        "corpus.filters.max_length": "max_sent_length max_source_positions src_seq_length tgt_seq_length "
        "max_source_length max_target_length",
        "corpus.limit.lines": "num_train num_examples max_train_samples",
        "tokenizer": "vocab",
        "tokenizer.kind": "level token_level",
        "tokenizer.load": "tokenizer_name tokenizer_file",
        "tokenizer.max_size": "vocab_size vocabulary_size src_vocab_size tgt_vocab_size voc_limit nwordssrc nwordstgt",
        "tokenizer.min_freq": "min_frequency voc_min_freq words_min_frequency src_words_min_frequency thresholdsrc "
        "thresholdtgt",
        "tokenizer.shared": "share_vocab joined_dictionary joint_vocab",
        "tokenizer.symbols": "reserved_tokens special_tokens",
        "model.kind": "arch architecture model_type",
        "model.cell": "rnn_type rnn cell_type",
        "model.hidden_size": "hidden_dim hidden num_hiddens rnn_size d_model n_hidden nhid encoder_hidden_size "
        "enc_rnn_size",
        "model.decoder_hidden_size": "dec_rnn_size",
        "model.embedding_size": "emb_size emb_dim embedding_dim embed_dim embed_size word_vec_size emsize "
        "encoder_embed_dim decoder_embed_dim",
        "model.num_layers": "layers n_layers nlayers num_hidden_layers encoder_layers enc_layers",
        "model.decoder_num_layers": "decoder_layers dec_layers",
        "model.bidirectional": "brnn encoder_bidirectional encoder_type",
        "model.attention": "global_attention attention_type attn decoder_attention",
        "model.coverage_attention": "coverage_attn",
        "model.context: feed": "input_feed input_feeding",
        "model.dropout": "hidden_dropout hidden_dropout_prob drop_prob dropout_rate",
        "model.tie_embeddings": "tie_weights tied tied_embeddings tied_softmax tie_word_embeddings share_embeddings "
        "share_decoder_embeddings share_all_embeddings share_decoder_input_output_embed",
        "model.initialization": "param_init init_range",
        "training.epochs": "num_epochs max_epochs max_epoch num_train_epochs n_epochs",
        "training.max_steps": "steps updates train_steps max_update max_updates",
        "training.max_steps (steps of training) or training.window (tokens of a window)": "num_steps",
        _BATCH: "batch_size batch train_batch_size per_device_train_batch_size batch_type",
        "training.batch_tokens (of a step) or corpus.limit.tokens (of the corpus)": "max_tokens",
        "training.batch_lines": "max_sentences",
        "training.window": "bptt seq_len seq_length sequence_length tokens_per_sample truncated_bptt_steps",
        "training.target_window": "truncated_decoder",
        "training.sampling": "use_random_iter",
        "training.learning_rate": "lr rate base_lr",
        "training.optimizer": "optim",
        "training.optimizer.betas": "adam_betas adam_beta1 adam_beta2 beta1 beta2",
        "training.optimizer.epsilon": "eps adam_eps adam_epsilon",
        "training.optimizer.weight_decay": "wd",
        "training.schedule": "scheduler lr_scheduler lr_schedule scheduling",
        "training.schedule.kind": "lr_scheduler_type decay_method",
        "training.schedule.warmup_steps": "warmup warmup_updates warmup_ratio learning_rate_warmup num_warmup_steps",
        "training.schedule.decay_factor": "lr_decay lr_shrink learning_rate_decay decrease_factor",
        "training.schedule.patience": "lr_patience",
        "training.schedule.final_rate": "min_lr learning_rate_min eta_min",
        "training.clip_norm": "grad_clip clip gradient_clip gradient_clip_val max_grad_norm clip_grad_norm "
        "grad_norm_clip",
        "training.clip_value": "clip_grad_val clip_grad_value",
        "training.clip_by": "gradient_clip_algorithm",
        "training.label_smoothing": "label_smoothing_factor",
        "training.accumulate": "gradient_accumulation gradient_accumulation_steps accumulate_grad_batches accum_count "
        "update_freq batch_multiplier",
        "training.validate_every_steps": "eval_steps valid_steps validation_freq val_check_interval "
        "validate_interval_updates eval_every",
        "training.validation.bleu_lines": "eval_bleu",
        "training.validation.samples": "print_valid_sents",
        "training.early_stop": "early_stopping",
        "training.early_stop.patience": "early_stopping_patience",
        "training.early_stop.metric": "early_stopping_metric early_stopping_criteria best_checkpoint_metric "
        "eval_metric monitor metric_for_best_model",
        "training.checkpoint_every_steps": "save_every save_steps save_checkpoint_steps save_interval_updates "
        "every_n_train_steps",
        "training.keep_checkpoints": "save_total_limit keep_checkpoint keep_last_ckpts keep_best_ckpts "
        "keep_last_epochs keep_interval_updates save_top_k",
        "training.log_every_steps": "log_interval logging_steps logging_freq report_every log_every log_every_n_steps",
        "training.init_from": "train_from finetune_from_model load_model restore_file ckpt_path "
        "model_name_or_path pretrained",
        "decoding": "testing",
        "decoding.beam_size": "beam beam_width num_beams",
        "decoding.num_best": "n_best nbest num_return_sequences",
        "decoding.length_penalty": "lenpen alpha beam_alpha len_penalty",
        _LENGTH: "max_len max_len_b max_length max_output_length",
        "decoding.coverage_penalty": "beta",
        "decoding.replace_unknown": "replace_unk",
        "decoding.no_repeat_ngram (of translations) or generation.no_repeat_ngram (of text)": "no_repeat_ngram_size "
        "block_ngram_repeat",
        "generation.num_tokens": "max_new_tokens",
        "generation.method: sample": "do_sample",
        "generation.top_k": "sampling_topk random_sampling_topk",
        "generation.temperature": "random_sampling_temp",
        "cluster.use_gpu": "gpu device use_cuda cuda accelerator",
        "cluster.use_gpu with cluster.num_workers": "gpus num_gpus n_gpu gpu_ranks",
        "cluster.num_workers": "workers",
        _WORKERS: "world_size devices num_nodes distributed_world_size nproc_per_node",
        "cluster.cpus_per_worker": "num_cpus threads num_threads",
        "compute.precision": "dtype torch_dtype model_dtype",
        "compute.precision: bf16": "fp16 bf16 amp mixed_precision",
        "telemetry.tensorboard": "tensorboard_log report_to",
    }
)
# Other toolkits choose the kind of a model, an optimizer or a corpus by one of these.
_KIND_SYNONYMS = ("type", "class", "_target_", "_name")


def refusal(
    invalid: pydantic.ValidationError, kind: type[section.Section], document: yaml_reader.Document, prefix: str
) -> errors.UsageError:
    """Returns an error with the first mistake that pydantic reports, and the number of others.

    Args:
        invalid: the error that validation raised.
        kind: the section that was validated.
        document: the data, with the position of each value.
        prefix: the name of the section with a dot, or nothing for a whole run.
    """
    by_path: dict[yaml_reader.Path, list[ErrorDetails]] = {}
    # Unknown names first: a misspelt setting is often the reason that another one is missing.
    for detail in sorted(invalid.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden"):
        by_path.setdefault(_path(detail, document.data), []).append(detail)
    # A union reports an error for each of its members: the innermost one says most.
    inner = [path for path in by_path if not any(path != other and other[: len(path)] == path for other in by_path)]
    path = inner[0]
    # Errors of the schema's own validators, whose text is written for the user.
    own = [detail for detail in by_path[path] if detail["type"] == "value_error"]
    if own:
        path, sentence = _own_sentence(str(own[0]["ctx"]["error"]), path, kind)
    else:
        sentence = _sentence(by_path[path], path, kind, document)
    name = f"{prefix}{yaml_reader.dotted(path)}: " if path else ""
    more = f" (and {len(inner) - 1} more)" if len(inner) > 1 else ""
    return errors.UsageError(f"{_where(path, document.marks)}: {name}{sentence}{more}")


def _path(detail: ErrorDetails, data: Any) -> yaml_reader.Path:
    """Returns the path of an error, without the names of union members that pydantic adds."""
    path: yaml_reader.Path = ()
    for position, step in enumerate(detail["loc"]):
        # The last step of a missing setting is not in the data, but belongs to its path.
        is_missing = detail["type"] == "missing" and position == len(detail["loc"]) - 1
        if is_missing or (isinstance(data, dict) and step in data):
            path = (*path, step)
            data = data.get(step) if isinstance(data, dict) else None
        elif isinstance(data, list) and isinstance(step, int):
            path = (*path, step)
            data = data[step]
    return path


def _where(path: yaml_reader.Path, marks: Mapping[yaml_reader.Path, yaml_reader.Mark]) -> str:
    # A missing setting has no position of its own: the nearest section that is written has one.
    while path and path not in marks:
        path = path[:-1]
    return marks[path].where


def _own_sentence(text: str, path: yaml_reader.Path, kind: type[section.Section]) -> tuple[yaml_reader.Path, str]:
    """Splits a message of the schema's own validators into the setting that it begins with, if any, and the rest."""
    setting, colon, rest = text.partition(": ")
    full = (*path, *setting.split("."))
    name = _declared(full, kind)
    # Only if it is a setting: a message may contain a colon for another reason.
    if colon and any(known == name or known.startswith(f"{name}.") for known, _, _ in section.roles(kind)):
        return full, rest
    return path, text


def _sentence(
    details: list[ErrorDetails], path: yaml_reader.Path, kind: type[section.Section], document: yaml_reader.Document
) -> str:
    first = details[0]
    context = first.get("ctx", {})
    shown = _shown(first["input"])
    match first["type"]:
        case "extra_forbidden":
            return _unknown(path, kind, document)
        case "missing":
            description = {name: text for name, _, text in section.roles(kind)}.get(_declared(path, kind), "")
            return f"is missing; add it{f': {description}' if description else ''}"
        case "union_tag_not_found":
            return "has no kind; add it"
        case "dict_type" | "model_attributes_type" | "union_tag_invalid" if choice := _choice_of_kinds(
            first["input"], path
        ):
            return f"expected {choice}, not {shown}; change it"
        case "literal_error" | "union_tag_invalid":
            return _not_one_of(str(context.get("tag", first["input"])), context)
        case "too_long" | "too_short":
            wanted = context.get("max_length", context.get("min_length"))
            return f"has {context['actual_length']} values; give {wanted}"
        case "finite_number":
            return "must be a finite number; choose a smaller one"
        case "string_pattern_mismatch":
            return f"{shown} does not match {context['pattern']}; choose letters, digits, dots, hyphens"
        case "string_too_short":
            return "is empty; give a value"
        case limit if limit in _LIMITS:
            return f"must be {_LIMITS[limit].format(**context)}; {shown} is not"
    expected = " or ".join(dict.fromkeys(_EXPECTED.get(detail["type"], detail["msg"]) for detail in details))
    # As written, since YAML has read `no` as false, and the user looks for `no`.
    if first["type"] == "string_type" and isinstance(first["input"], (bool, int, float)):
        written = document.marks[path].written if path in document.marks else shown
        return f"expected text, but {written} reads as {shown}; quote it: '{written}'"
    remedy = "write it in brackets" if "tuple_type" in {detail["type"] for detail in details} else "change it"
    return f"expected {expected}, not {shown}; {remedy}"


def _choice_of_kinds(value: object, path: yaml_reader.Path) -> str:
    """Returns what a group with a short form may be; nothing where its value names a kind, be it an unknown one."""
    group = old_names.GROUPS.get(yaml_reader.dotted(path))
    if group is None or (isinstance(value, dict) and isinstance(value.get("kind"), str)):
        return ""
    return f"a kind ({', '.join(group.names)}), or names and values"


def _unknown(path: yaml_reader.Path, kind: type[section.Section], document: yaml_reader.Document) -> str:
    name = str(path[-1])
    with_name: list[str] = []
    here: dict[str, Any] = {}
    for member in section.members(kind, path[:-1]):
        here |= member.model_fields
        if name in member.model_fields:
            with_name += section.kinds_of(member)
    if with_name:
        chosen = document.data
        for step in path[:-1]:
            chosen = chosen[step]
        return f"is not a setting of kind {chosen['kind']}; remove it, or use kind {' or '.join(with_name)}"
    # Translation and generation have settings of the same names: of a language model those of generation count.
    does_generate = old_names.model_kind(document.data) not in ("seq2seq", None)
    return unknown(name, list(here), kind, "generation" if does_generate else "decoding")


def unknown(name: str, here: Sequence[str], kind: type[section.Section], preferred: str = "") -> str:
    """Returns the message for an unknown name: the meaning of a synonym, or the nearest name, here or elsewhere.

    Args:
        name: the unknown name, without its section.
        here: the names that its section has.
        kind: the whole, whose other sections are searched, too.
        preferred: the section whose setting is meant where several have one of the name.
    """
    if name in SYNONYMS:
        return f"is not a setting; did you mean {SYNONYMS[name]}?"
    if name in _KIND_SYNONYMS and "kind" in here:
        return "is not a setting; did you mean kind?"
    elsewhere: dict[str, str] = {}
    for known in sorted(_paths(kind), key=lambda known: not known.startswith(f"{preferred}.")):
        elsewhere.setdefault(known.rpartition(".")[2], known)
    if name in elsewhere:
        return f"is not a setting here; did you mean {elsewhere[name]}?"
    # Plain sections are no candidates here: `trainer` is nearer to corpus.train than to training.
    settings = {known for known, _, _ in section.roles(kind)} | old_names.GROUPS.keys()
    names = [last for last, known in elsewhere.items() if known in settings]
    # Of equally near names the one in the same section comes first.
    # A stricter limit elsewhere: among all settings some name is always a little like the wrong one.
    near = difflib.get_close_matches(name, here, n=1) + difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    if near:
        best = max(near, key=lambda other: difflib.SequenceMatcher(None, other, name).ratio())
        return f"is not a setting; did you mean {best if best in here else elsewhere[best]}?"
    return f"is not a setting; known here: {', '.join(here)}"


def _paths(kind: type[section.Section]) -> list[str]:
    """Returns the dotted names of all settings and of the groups that hold them, in order of declaration."""
    paths: dict[str, None] = {}
    for known, _, _ in section.roles(kind):
        steps = known.split(".")
        # The place of a chosen name is not a name that one could mean.
        ends = [end for end in range(1, len(steps) + 1) if steps[end - 1] != section.ANY]
        paths |= {".".join(steps[:end]): None for end in ends}
    return list(paths)


def _declared(path: yaml_reader.Path, kind: type[section.Section]) -> str:
    """Returns the name of a setting as the schema has it: without the names that users choose."""
    every = [known for known, _, _ in section.roles(kind)]
    name = ""
    for step in path:
        is_chosen = any(known.startswith(f"{name}{section.ANY}.") for known in every)
        name += f"{section.ANY if is_chosen else step}."
    return name.removesuffix(".")


def _not_one_of(value: str, context: Mapping[str, Any]) -> str:
    # pydantic gives the choices as text: 'a', 'b' or 'c' of a literal, 'a', 'b' of a union's tags.
    expected = str(context.get("expected", context.get("expected_tags", ""))).replace("'", "")
    choices = expected.replace(" or ", ", ").split(", ")
    near = difflib.get_close_matches(value, choices, n=1)
    what_to_do = f"did you mean {near[0]}?" if near else "choose one of them"
    return f"{value!r} is not one of {', '.join(choices)}; {what_to_do}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
