"""Effects of the settings of inference and machines."""

from tests.jobs.effects import experiments, rows

_STREAM = "scoring.unit=stream"
_SAMPLED = "decoding.method=sample"

INFERENCE: dict[str, rows.Effect | rows.Elsewhere] = {
    "decoding.method": rows.translated("beam", "sample", "decoding.num_best=1"),
    "decoding.beam_size": rows.translated("1", "5"),
    "decoding.num_best": rows.translated("1", "2"),
    "decoding.length_penalty": rows.translated("0", "4", base="seed=8"),
    "decoding.min_length": rows.translated("0", "7", "decoding.length_penalty=0", base="seed=8"),
    "decoding.max_length": rows.translated("4", "8"),
    "decoding.part_lines": rows.Elsewhere(
        "tests/jobs/test_translate.py::test_a_folder_output_keeps_the_parts_and_their_manifest"
    ),
    "decoding.batch_rows": rows.Elsewhere(
        "tests/jobs/effects/test_effects.py::test_a_batch_of_translations_has_at_most_as_many_rows_as_set"
    ),
    "decoding.temperature": rows.translated("0.5", "2", _SAMPLED),
    "decoding.top_k": rows.translated("1", "9", _SAMPLED),
    "decoding.top_p": rows.translated("0.1", "1", _SAMPLED),
    "decoding.seed": rows.Elsewhere(
        "tests/jobs/test_translate_together.py::test_sampled_translations_depend_on_the_seed_and_not_on_the_parts"
    ),
    "decoding.average_checkpoints": rows.Elsewhere(
        "tests/jobs/test_translate_together.py::test_checkpoints_are_averaged"
    ),
    "decoding.coverage_penalty": rows.translated("0", "2"),
    "decoding.no_repeat_ngram": rows.translated("null", "1"),
    "decoding.repetition_penalty": rows.translated("1", "3"),
    "decoding.target_token": rows.Elsewhere(
        "tests/jobs/test_corpora.py::test_the_target_token_determines_the_translation"
    ),
    "decoding.replace_unknown": rows.Elsewhere(
        "tests/core/decoding/translation/test_alignments.py::test_attention_of_a_copy_model_is_diagonal"
    ),
    "decoding.fusion": rows.translated("null", "{run: r, weight: 0.9}"),
    "decoding.fusion.run": rows.Elsewhere(
        "tests/jobs/test_translate_together.py::test_the_plan_of_fusion_names_the_language_model_by_its_content"
    ),
    "decoding.fusion.weight": rows.translated("0.1", "0.9", "decoding.fusion={run: r}"),
    "decoding.fusion.when": rows.translated("search", "after", "decoding.fusion={run: r, weight: 0.9}"),
    "decoding.shortlist": rows.translated("null", "{candidates: 2, always: 3}"),
    "decoding.shortlist.candidates": rows.translated("1", "3", "decoding.shortlist={candidates: 1, always: 3}"),
    "decoding.shortlist.always": rows.translated("1", "6", "decoding.shortlist={candidates: 1, always: 3}"),
    "decoding.alignments": rows.Elsewhere(
        "tests/core/decoding/translation/test_alignments.py::test_attention_of_a_copy_model_is_diagonal"
    ),
    "decoding.attention_maps": rows.Elsewhere(
        "tests/core/decoding/translation/test_alignments.py::test_attention_of_a_copy_model_is_diagonal"
    ),
    "generation.method": rows.generated("sample", "greedy"),
    "generation.temperature": rows.generated("0.5", "3"),
    "generation.top_k": rows.generated("1", "9"),
    "generation.top_p": rows.generated("0.1", "1"),
    "generation.seed": rows.generated("1", "2"),
    "generation.num_tokens": rows.generated("20", "21"),
    "generation.steps_ahead": rows.Elsewhere("tests/jobs/test_ngram.py::test_a_bigram_model_of_a_small_corpus_by_hand"),
    "generation.no_repeat_ngram": rows.generated("null", "1"),
    "generation.repetition_penalty": rows.generated("1", "4"),
    "generation.average_checkpoints": rows.Elsewhere("tests/jobs/test_generate.py::test_checkpoints_are_averaged"),
    "scoring.unit": rows.scored("line", "stream"),
    "scoring.lanes": rows.Elsewhere("tests/jobs/test_score.py::test_lanes_score_every_line_once"),
    "scoring.part_lines": rows.Elsewhere(
        "tests/jobs/test_ngram.py::test_the_score_of_a_stream_does_not_depend_on_the_size_of_parts"
    ),
    "scoring.batch_tokens": rows.Elsewhere(
        "tests/core/decoding/scoring/test_scorer.py::test_batch_tokens_count_padding"
    ),
    "scoring.tokens": rows.Elsewhere("tests/jobs/test_score.py::test_the_scores_of_tokens_are_stored_on_request"),
    "scoring.average_checkpoints": rows.Elsewhere(
        "tests/jobs/test_score_together.py::test_averaged_checkpoints_score_as_a_model_of_their_mean_weights"
    ),
    "scoring.target_token": rows.Elsewhere(
        "tests/jobs/test_corpora.py::test_the_target_token_determines_the_translation"
    ),
    "scoring.cache": rows.scored("null", "{}", _STREAM),
    "scoring.cache.size": rows.scored("2", "20", _STREAM),
    "scoring.cache.theta": rows.scored("0", "2", _STREAM),
    "scoring.cache.weight": rows.scored("0.1", "0.5", _STREAM),
    "scoring.dynamic": rows.scored("null", "{}", _STREAM),
    "scoring.dynamic.rule": rows.scored("sgd", "rms", _STREAM),
    "scoring.dynamic.learning_rate": rows.scored("1e-4", "1e-3", _STREAM),
    "scoring.dynamic.decay": rows.scored("0", "0.5", _STREAM),
    "scoring.dynamic.epsilon": rows.scored("1e-5", "1", _STREAM),
    "scoring.dynamic.window": rows.scored("5", "6", _STREAM),
    "scoring.dynamic.statistics_lanes": rows.scored("2", "20", _STREAM),
    "scoring.dynamic.statistics_windows": rows.scored("1", "3", _STREAM, "scoring.dynamic.statistics_lanes=2"),
    "evaluation.tokenize": rows.Elsewhere(
        "tests/jobs/test_evaluate.py::test_a_run_gives_its_cleaning_and_evaluation_settings_and_options_override_them"
    ),
    "evaluation.lowercase": rows.Elsewhere(
        "tests/core/evaluation/test_quality.py::test_lowercase_bleu_and_chrf_do_not_regard_case"
    ),
    "scoring.mixture.kind": rows.Elsewhere(
        "tests/jobs/test_score_mixture.py::test_a_ranking_is_the_weighted_sum_of_both_directions_and_has_no_perplexity"
    ),
    "scoring.mixture.weights": rows.Elsewhere(
        "tests/jobs/test_score_mixture.py::test_weights_of_one_and_zero_give_the_scores_of_the_first_run"
    ),
    "scoring.mixture.fit_on": rows.Elsewhere(
        "tests/jobs/test_score_mixture.py::test_fitted_weights_are_better_than_others_on_the_held_out_text"
    ),
    "scoring.mixture.iterations": rows.Elsewhere(
        "tests/jobs/test_score_mixture.py::test_a_fit_has_at_most_as_many_iterations_as_set"
    ),
    "forecasting.method": rows.Effect(("recursive", "direct"), experiments.forecasting, "", (), "rows"),
    "forecasting.csv.delimiter": rows.Elsewhere(
        "tests/core/data/series/test_reading.py::test_files_of_many_dialects_are_read"
    ),
    "forecasting.csv.decimal": rows.Elsewhere(
        "tests/core/data/series/test_reading.py::test_files_of_many_dialects_are_read"
    ),
    "forecasting.csv.thousands": rows.Elsewhere(
        "tests/core/data/series/test_reading.py::test_files_of_many_dialects_are_read"
    ),
    "forecasting.csv.time_format": rows.Elsewhere(
        "tests/core/data/series/test_reading.py::test_files_of_many_dialects_are_read"
    ),
    "forecasting.csv.missing": rows.Elsewhere(
        "tests/core/data/series/test_reading.py::test_files_of_many_dialects_are_read"
    ),
    "forecasting.csv": rows.Elsewhere(
        "tests/jobs/test_forecast.py::test_a_series_with_another_step_or_dialect_is_refused_or_described"
    ),
    "forecasting.gaps": rows.Elsewhere(
        "tests/jobs/test_forecast.py::test_a_series_with_another_step_or_dialect_is_refused_or_described"
    ),
    "forecasting.period": rows.Elsewhere(
        "tests/core/decoding/generation/test_forecast_errors.py::test_the_seasonal_naive_forecast_repeats_the_last_whole_season"
    ),
    "forecasting.horizons": rows.Effect(("[1]", "[1, 2]"), experiments.forecasting, "", (), "rows"),
}

MACHINES: dict[str, rows.Effect | rows.Elsewhere] = {
    "compute.precision": rows.translated("fp32", "bf16"),
    "compute.matmul": rows.Elsewhere(
        "tests/core/models/test_compute.py::test_onednn_multiplies_in_fp32_and_default_restores"
    ),
    "cluster.address": rows.Elsewhere(
        "tests/workers/cluster/test_session.py::test_ray_is_used_only_for_work_that_can_be_shared"
    ),
    "cluster.num_workers": rows.Elsewhere(
        "tests/workers/cluster/test_session.py::test_ray_is_used_only_for_work_that_can_be_shared"
    ),
    "cluster.num_workers.min": rows.Elsewhere(
        "tests/jobs/effects/test_effects.py::test_a_range_of_workers_is_from_min_to_max"
    ),
    "cluster.num_workers.max": rows.Elsewhere(
        "tests/jobs/effects/test_effects.py::test_a_range_of_workers_is_from_min_to_max"
    ),
    "cluster.use_gpu": rows.Elsewhere("tests/jobs/effects/test_effects.py::test_use_gpu_selects_the_device"),
    "cluster.cpus_per_worker": rows.Elsewhere(
        "tests/workers/cluster/test_session.py::test_an_in_process_stage_uses_the_threads_of_one_worker"
    ),
    "cluster.label_selector": rows.Elsewhere(
        "tests/workers/cluster/test_session.py::test_workers_that_run_a_model_are_on_the_nodes_that_are_selected"
    ),
    "cluster.max_failures": rows.Elsewhere(
        "tests/workers/fanout/test_pool.py::test_a_part_that_kills_each_worker_ends_the_run_after_max_failures_retries"
    ),
    "cluster.start_timeout_s": rows.Elsewhere(
        "tests/workers/cluster/test_starting.py::test_ray_waits_for_its_node_as_long_as_the_setting_says"
    ),
    "cluster.cache_size_bytes": rows.Elsewhere(
        "tests/core/storage/test_node_cache.py::test_the_least_recently_opened_copies_go_when_the_limit_is_reached"
    ),
    "cluster.part_timeout_s": rows.Elsewhere(
        "tests/workers/fanout/test_pool.py::test_a_worker_that_exceeds_the_part_timeout_is_killed_and_its_part_retried"
    ),
    "cluster.collective_timeout_s": rows.Elsewhere("tests/chaos/test_training.py::test_a_rank_that_hangs_is_replaced"),
    "telemetry.metrics_port": rows.Elsewhere(
        "tests/workers/telemetry/test_prometheus.py::test_prometheus_discovers_the_run_and_scrapes_its_metrics"
    ),
    "telemetry.metrics_host": rows.Elsewhere(
        "tests/k8s/test_entry_points.py::test_every_job_runs_on_two_nodes_and_exports_all_metrics"
    ),
    "telemetry.pushgateway": rows.Elsewhere(
        "tests/workers/telemetry/test_prometheus.py::test_a_verb_that_ends_takes_nothing_away_from_what_other_verbs_pushed"
    ),
    "telemetry.pushgateway_credentials": rows.Elsewhere(
        "tests/jobs/test_credentials.py::test_a_run_sends_the_password_of_a_file_and_stores_it_nowhere"
    ),
    "telemetry.linger_s": rows.Elsewhere(
        "tests/k8s/test_entry_points.py::test_every_job_runs_on_two_nodes_and_exports_all_metrics"
    ),
    "telemetry.tensorboard": rows.Elsewhere(
        "tests/workers/telemetry/test_tensorboard.py::test_nothing_is_written_unless_the_setting_is_true"
    ),
}
