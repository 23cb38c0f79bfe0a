"""Text generation with a trained language model, from a prefix or towards an ending, in this process."""

from typing import Any

from core import errors
from core.config import inference_settings, model_settings, schema
from core.decoding.generation import generator
from core.models import compute as computing
from core.storage import location, node_cache
from jobs import run_checks
from workers.infer import driver


def run(
    run: location.Location,
    prefix: str | None,
    generation: inference_settings.GenerationConfig,
    compute: schema.ComputeConfig,
    cluster: schema.ClusterConfig,
    seed: int = 1,
    ending: str | None = None,
) -> dict[str, Any]:
    """Generates `generation.num_tokens` tokens after the prefix, or before the ending, and returns the report.

    Equal seeds give equal texts.

    Args:
        run: root of a run, or one checkpoint folder.
        prefix: beginning of the text, for a model that reads forward.
        generation: settings of generation.
        compute: numerical settings.
        cluster: threads, and whether a GPU is used.
        seed: seed of sampling, unless `generation.seed` is set.
        ending: end of the text, for a model that reads backward.

    Raises:
        UsageError: the model is not a language model, or the other one of prefix and ending is needed.
    """
    run_checks.check_prompt(run, prefix, ending)
    # Else the seed of the run: equal calls give equal text without naming one.
    if generation.seed is not None:
        seed = generation.seed
    opened = driver.open_run(
        "generate", run, generation.average_checkpoints, node_cache.NodeCache(cluster.cache_size_bytes)
    )
    # As in a worker, since sums depend on the number of threads.
    computing.set_threads(cluster.cpus_per_worker)
    text_generator = generator.Generator(opened.bundle, generation, compute, seed, cluster.device)
    option, prompt = _prompt(model_settings.reads_backward(opened.bundle.config), prefix, ending)
    generated = text_generator.continue_text(prompt)
    report: dict[str, Any] = {
        **opened.report,
        "method": generation.method,
        "seed": seed,
        option: prompt,
        "text": generated.text,
        "num_tokens": generated.num_tokens,
        "ended": generated.ended,
    }
    if generation.steps_ahead is not None:
        report["ahead"] = [
            list(prediction) for prediction in text_generator.predict_ahead(prompt, generation.steps_ahead)
        ]
    if warnings := _warnings(generated, option):
        report["warnings"] = warnings
    return report


def _warnings(generated: generator.Continuation, option: str) -> list[str]:
    warnings = []
    if generated.num_unknown:
        warnings.append(f"--{option}: {generated.num_unknown} of its tokens are not in the vocabulary; read as <unk>")
    if generated.ended == "no_repeat_ngram":
        warnings.append(
            f"generation.no_repeat_ngram: every token would repeat an n-gram after {generated.num_tokens} tokens; "
            "use a larger number for a longer text"
        )
    return warnings


def _prompt(backward: bool, prefix: str | None, ending: str | None) -> tuple[str, str]:
    """Returns the name of the option that the model needs, and its value.

    Raises:
        UsageError: only the other option is given.
    """
    option, prompt, direction = ("ending", ending, "backward") if backward else ("prefix", prefix, "forward")
    if prompt is None:
        other = "prefix" if backward else "ending"
        raise errors.UsageError(f"--{other}: this run's model reads {direction}; give it a --{option} instead")
    return option, prompt
