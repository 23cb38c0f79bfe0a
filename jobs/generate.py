"""Goes on from a prefix, or towards an ending, with a trained language model, in this process."""

from typing import Any

from core import errors
from core.config import inference_settings, model_settings, schema
from core.decoding.generation import generator
from core.models import compute as computing
from core.storage import location
from workers.infer import driver


def run(
    run: location.Location,
    prefix: str | None,
    decoding: inference_settings.DecodingConfig,
    compute: schema.ComputeConfig,
    cluster: schema.ClusterConfig,
    seed: int = 1,
    ending: str | None = None,
) -> dict[str, Any]:
    """Reads the prefix and adds `decoding.num_tokens` tokens; the same for the same seed, be it `decoding.seed`.

    A model that reads backward has an ending instead, and what it adds stands before it.

    Raises:
        UsageError: the run holds a seq2seq, or there is nothing to start from that its model reads.
    """
    if (prefix is None) == (ending is None):
        raise errors.UsageError(
            "--prefix, --ending: give one of them: what the text begins with, or to a model that reads backward its end"
        )
    if decoding.seed is not None:
        seed = decoding.seed
    opened = driver.open_run("generate", run, decoding.average_checkpoints)
    computing.set_threads(cluster.cpus_per_worker)
    device = "cuda" if cluster.use_gpu else "cpu"
    ready = generator.Generator(opened.bundle, decoding, compute, seed, device)
    flag, given = _given(model_settings.reads_backward(opened.bundle.config), prefix, ending)
    made = ready.continuation(given)
    report: dict[str, Any] = {
        **opened.report,
        "method": decoding.method,
        "seed": seed,
        flag: given,
        "text": made.text,
        "num_tokens": made.num_tokens,
    }
    if decoding.steps_ahead is not None:
        report["ahead"] = [list(one) for one in ready.ahead(given, decoding.steps_ahead)]
    if made.num_unknown:
        report["warnings"] = [f"--{flag}: {made.num_unknown} of its tokens are not in the vocabulary; read as <unk>"]
    return report


def _given(backward: bool, prefix: str | None, ending: str | None) -> tuple[str, str]:
    """Returns what there is to start from, and its name."""
    name, given, way = ("ending", ending, "backward") if backward else ("prefix", prefix, "forward")
    if given is None:
        other = "prefix" if backward else "ending"
        raise errors.UsageError(f"--{other}: this run's model reads {way}; give it a --{name} instead")
    return name, given
