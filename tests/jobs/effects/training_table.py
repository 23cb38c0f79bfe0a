"""Effects of the settings of data, models and training."""

from tests.jobs.effects import experiments, rows

_TWO_LAYERS = "model.num_layers=2"
_TABLE = "corpus.train={table: [FOLDER/rows.jsonl], columns: [a, b]}"
_FILES = "corpus.train={source: [FOLDER/source.txt], target: [FOLDER/target.txt]}"
_PLATEAU = (
    "training.schedule.kind=plateau",
    "training.validate_every_steps=1",
    "training.learning_rate=8",
    "training.max_steps=5",
)
_SAMPLING = ("training.scheduled_sampling={start: 0.5, end: 0.5, over_steps: 2}",)
_BLEU = "training.validation.bleu_lines=3"

CORPUS: dict[str, rows.Effect | rows.Elsewhere] = {
    "corpus.kind": rows.Elsewhere(
        "tests/jobs/effects/test_effects.py::test_the_kinds_of_corpus_and_model_must_fit_each_other"
    ),
    "corpus.train.text": rows.dataset("text", "[FOLDER/train.txt]", "[FOLDER/valid.txt]"),
    "corpus.train.tsv": rows.dataset("pairs", "[FOLDER/pairs.tsv]", "[FOLDER/more.tsv]"),
    "corpus.train.table": rows.dataset("pairs", "[FOLDER/rows.jsonl]", "[FOLDER/fewer.jsonl]", _TABLE),
    "corpus.train.columns": rows.dataset("pairs", "[a, b]", "[b, a]", _TABLE),
    "corpus.train.csv": rows.dataset("series", "[FOLDER/values.csv]", "[FOLDER/other.csv]"),
    "corpus.train.source": rows.dataset("pairs", "[FOLDER/source.txt]", "[FOLDER/third.txt]", _FILES),
    "corpus.train.target": rows.dataset("pairs", "[FOLDER/target.txt]", "[FOLDER/third.txt]", _FILES),
    "corpus.valid": rows.dataset("text", "{text: [FOLDER/valid.txt]}", "{text: [FOLDER/other.txt]}"),
    "corpus.test": rows.dataset("text", None, "{text: [FOLDER/other.txt]}"),
    "corpus.split.valid": rows.dataset("pairs", "0.2", "0.5"),
    "corpus.split.test": rows.dataset("pairs", "0", "0.3"),
    "corpus.split.by": rows.dataset("pairs", "source", "line"),
    "corpus.cleaning": rows.dataset("text", "[]", "[lower]"),
    "corpus.filters.min_length": rows.dataset("text", "1", "5"),
    "corpus.filters.max_length": rows.dataset("text", "5", "6"),
    "corpus.filters.max_ratio": rows.dataset("pairs", "null", "2"),
    "corpus.filters.too_long": rows.dataset("text", "drop", "cut", "corpus.filters.max_length=5"),
    "corpus.filters.duplicates": rows.dataset("text", "keep", "drop"),
    "corpus.line_end": rows.dataset("text", "eos", "none", "tokenizer.kind=char"),
    "corpus.limit.lines": rows.dataset("text", "10", "20"),
    "corpus.limit.tokens": rows.dataset("text", "10", "20"),
    "corpus.limit.vocabulary": rows.dataset("text", "before", "after", "corpus.limit.lines=2"),
    "corpus.inputs": rows.dataset("series", "[x]", "[y]"),
    "corpus.targets": rows.dataset("series", "[x]", "[y]"),
    "corpus.padding": rows.trained("series", "drop", "zeros"),
    "corpus.csv.delimiter": rows.Elsewhere(
        "tests/core/data/series/test_reading.py::test_files_of_many_dialects_are_read"
    ),
    "corpus.csv.decimal": rows.Elsewhere(
        "tests/core/data/series/test_reading.py::test_files_of_many_dialects_are_read"
    ),
    "corpus.csv.thousands": rows.Elsewhere(
        "tests/core/data/series/test_reading.py::test_files_of_many_dialects_are_read"
    ),
    "corpus.csv.time_format": rows.Elsewhere(
        "tests/core/data/series/test_reading.py::test_files_of_many_dialects_are_read"
    ),
    "corpus.csv.missing": rows.Elsewhere(
        "tests/core/data/series/test_reading.py::test_files_of_many_dialects_are_read"
    ),
    "corpus.time": rows.Elsewhere(
        "tests/core/data/series/test_dataset.py::test_times_and_filled_values_are_stored_with_each_split"
    ),
    "corpus.gaps": rows.Elsewhere(
        "tests/jobs/test_forecast.py::test_gaps_are_refused_or_filled_and_filled_values_have_no_error"
    ),
    "corpus.scaling": rows.trained("series", "none", "standard"),
    "corpus.on_bad_line": rows.Elsewhere(
        "tests/jobs/test_prepare.py::test_a_bad_line_is_skipped_and_counted_or_ends_the_run"
    ),
    "corpus.max_line_bytes": rows.dataset("text", "16", "60"),
    "corpus.sha256": rows.Elsewhere(
        "tests/jobs/test_prepare_web.py::test_web_sources_need_a_checksum_and_redirects_are_not_followed"
    ),
    "corpora.NAME.weight": rows.trained("corpora", "1", "3"),
    "corpora.NAME.target_token": rows.dataset("corpora", "<2a>", "<2c>"),
    "tokenizer.kind": rows.dataset("text", "word", "char"),
    "tokenizer.load": rows.Elsewhere("tests/jobs/test_prepare_words.py::test_a_ready_tokenizer_is_used_unchanged"),
    "tokenizer.min_freq": rows.dataset("text", "1", "14"),
    "tokenizer.max_size": rows.dataset("text", "null", "8"),
    "tokenizer.symbols": rows.dataset("text", "[]", "[<num>]"),
    "tokenizer.shared": rows.dataset("pairs", "false", "true"),
    "tokenizer.sample_bytes": rows.dataset("text", "1024", "100000", "tokenizer={kind: bpe, max_size: 400}"),
    "sharding.statistics": rows.Effect(("false", "true"), experiments.dataset, "text", (), "files", "dataset"),
    "sharding.part_size_bytes": rows.dataset("text", "1024", "4096"),
    "name": rows.Elsewhere("tests/jobs/effects/test_effects.py::test_another_name_is_another_run"),
    "root": rows.Elsewhere("tests/jobs/effects/test_effects.py::test_the_root_is_where_a_run_is_and_nothing_more"),
    "seed": rows.text("1", "2"),
}

MODEL: dict[str, rows.Effect | rows.Elsewhere] = {
    "model.kind": rows.Elsewhere(
        "tests/jobs/effects/test_effects.py::test_the_kinds_of_corpus_and_model_must_fit_each_other"
    ),
    "model.cell": rows.text("lstm", "gru"),
    "model.nonlinearity": rows.text("tanh", "relu", "model.cell=rnn"),
    "model.gru_reset": rows.text("after", "before", "model.cell=gru"),
    "model.biases": rows.text("one", "two"),
    "model.num_layers": rows.text("1", "2"),
    "model.hidden_size": rows.text("4", "5"),
    "model.connections": rows.text("none", "residual", _TWO_LAYERS),
    "model.layer_norm": rows.text("false", "true"),
    "model.initial_state": rows.text("zero", "learned"),
    "model.embedding_size": rows.text("4", "5"),
    "model.dropout": rows.text("0", "0.5", _TWO_LAYERS),
    "model.embedding_dropout": rows.text("0", "0.5"),
    "model.word_dropout": rows.text("0", "0.5"),
    "model.weight_dropout": rows.text("0", "0.5"),
    "model.output_dropout": rows.text("0", "0.5"),
    "model.locked_dropout": rows.text("false", "true", "model.output_dropout=0.5"),
    "model.scale_tied": rows.text("true", "false", "model.tie_embeddings=true"),
    "model.initialization": rows.text("torch", "xavier"),
    "model.embedding_initialization": rows.text("scaled", "normal"),
    "model.recurrent_initialization": rows.text("same", "orthogonal"),
    "model.forget_bias": rows.text("null", "1"),
    "model.direction": rows.text("forward", "backward"),
    "model.input": rows.text("embedding", "one_hot"),
    "model.tie_embeddings": rows.text("false", "true"),
    "model.adaptive_cutoffs": rows.text("[]", "[6]"),
    "model.bidirectional": rows.pairs("false", "true"),
    "model.bidirectional_layers": rows.pairs("1", "2", _TWO_LAYERS, "model.bidirectional=true"),
    "model.backward_hidden_size": rows.pairs("4", "3", "model.bidirectional=true"),
    "model.decoder_num_layers": rows.pairs("1", "2", _TWO_LAYERS),
    "model.decoder_hidden_size": rows.pairs("null", "6"),
    "model.bridge": rows.pairs("final", "mean"),
    "model.attention": rows.pairs("additive", "dot"),
    "model.coverage_attention": rows.pairs("false", "true"),
    "model.context": rows.pairs("output", "input"),
    "model.order": rows.trained("ngram", "2", "3"),
    "model.smoothing": rows.trained("ngram", "kneser_ney", "good_turing"),
    "model.unit": rows.trained("ngram", "stream", "line"),
    "model.epsilons": rows.trained("ngram", "[1.0]", "[0.5]", "model.smoothing=laplace"),
    "model.prune": rows.trained("ngram", "[0]", "[0, 1]"),
    "model.network": rows.trained("series", "mlp", "gru"),
    "model.lags": rows.trained("series", "3", "4"),
    "model.horizon": rows.trained("series", "1", "2"),
    "model.horizon_by": rows.trained("series", "outputs", "models", "model.horizon=2"),
}

TRAINING: dict[str, rows.Effect | rows.Elsewhere] = {
    "training.epochs": rows.trained("series", "2", "3"),
    "training.max_steps": rows.text("3", "4"),
    "training.batch_tokens": rows.pairs("40", "80", "training.batch_lines=null"),
    "training.batch_lines": rows.pairs("12", "6"),
    "training.num_lanes": rows.text("4", "3"),
    "training.window": rows.text("5", "6"),
    "training.sampling": rows.text("sequential", "random"),
    "training.truncation.kind": rows.text("fixed", "variable"),
    "training.truncation.cut_every": rows.text(
        "2", "3", "training.truncation.kind=random", "training.truncation.cut_probability=0.9"
    ),
    "training.truncation.cut_probability": rows.text("0.1", "0.9", "training.truncation={kind: random, cut_every: 2}"),
    "training.truncation.lookback": rows.text("2", "3", "training.truncation.kind=sliding"),
    "training.target_window": rows.pairs("null", "2"),
    "training.optimizer.kind": rows.text("adam", "sgd"),
    "training.optimizer.betas": rows.text("[0.9, 0.999]", "[0.5, 0.9]"),
    "training.optimizer.epsilon": rows.text("1e-8", "1e-2"),
    "training.optimizer.weight_decay": rows.text("0", "0.1"),
    "training.optimizer.momentum": rows.text("0", "0.9", "training.optimizer=sgd"),
    "training.optimizer.non_monotone_interval": rows.text("null", "5", "training.optimizer=asgd"),
    "training.learning_rate": rows.text("0.05", "0.06"),
    "training.schedule.kind": rows.text("constant", "cosine"),
    "training.schedule.warmup_steps": rows.text("0", "2"),
    "training.schedule.final_rate": rows.text("0", "0.5", "training.schedule.kind=cosine"),
    "training.schedule.decay_factor": rows.text("0.1", "0.5", *_PLATEAU, "training.schedule.patience=0"),
    "training.schedule.patience": rows.text("0", "9", *_PLATEAU),
    "training.schedule.reload_best": rows.text("false", "true", *_PLATEAU, "training.schedule.patience=0"),
    "training.schedule.decay_every_epochs": rows.trained("series", "1", "2", "training.schedule.kind=step"),
    "training.clip_norm": rows.text("1e-3", "1e-2", "training.optimizer=sgd"),
    "training.clip_by": rows.text("global", "layer", "training.clip_norm=1e-3", "training.optimizer=sgd"),
    "training.clip_value": rows.text("1e-3", "1e-4", "training.clip_norm=null", "training.optimizer=sgd"),
    "training.label_smoothing": rows.text("0", "0.2"),
    "training.bpe_dropout": rows.pairs("0", "0.5", "tokenizer={kind: bpe, max_size: 320}"),
    "training.activation_regularization": rows.text("0", "2"),
    "training.temporal_activation_regularization": rows.text("0", "2"),
    "training.scheduled_sampling": rows.pairs("null", "{start: 0.9, end: 0.9}"),
    "training.scheduled_sampling.start": rows.pairs("0.0", "0.9", *_SAMPLING),
    "training.scheduled_sampling.end": rows.pairs("0.5", "1.0", *_SAMPLING),
    "training.scheduled_sampling.over_steps": rows.pairs(
        "1", "1000", "training.scheduled_sampling={start: 0.0, end: 1.0}"
    ),
    "training.accumulate": rows.text("1", "2"),
    "training.multitask.projection": rows.trained(
        "corpora", "none", "pcgrad", "training.max_steps=8", "training.multitask.record_cosines=true"
    ),
    "training.multitask.detached": rows.trained("corpora", "{}", "{one: [encoder]}"),
    "training.multitask.record_cosines": rows.trained("corpora", "false", "true", differs="log"),
    "training.validate_every_steps": rows.text("1", "2", differs="log", same="weights"),
    "training.validation.bleu_lines": rows.pairs("0", "3", differs="log", same="weights"),
    "training.validation.samples": rows.pairs("0", "2", differs="log", same="weights"),
    "training.early_stop": rows.text(
        "null",
        "{patience: 1}",
        "training.learning_rate=9",
        "training.validate_every_steps=1",
        "training.max_steps=6",
        differs="steps",
    ),
    "training.early_stop.metric": rows.pairs(
        "perplexity",
        "bleu",
        _BLEU,
        "training.early_stop.patience=1",
        "training.validate_every_steps=1",
        "training.max_steps=9",
        differs="steps",
    ),
    "training.early_stop.patience": rows.text(
        "1", "2", "training.learning_rate=9", "training.validate_every_steps=1", "training.max_steps=6", differs="steps"
    ),
    "training.checkpoint_every_steps": rows.text("1", "2", differs="checkpoints", same="weights"),
    "training.keep_checkpoints": rows.text(
        "1", "3", "training.checkpoint_every_steps=1", differs="checkpoints", same="weights"
    ),
    "training.log_every_steps": rows.text("1", "3", differs="log", same="weights"),
    "training.record_gradients": rows.text("false", "true", differs="log", same="weights"),
    "training.init_from": rows.Elsewhere(
        "tests/core/training/test_trainer.py::test_init_from_starts_from_the_weights_of_another_run"
    ),
    "training.embeddings": rows.text("{}", "{text: FOLDER/vectors.txt}"),
}
