"""Goes on from a prefix with a trained language model, in this process."""

from typing import Any

from core.config import inference_settings, schema
from core.decoding import generator
from core.models import averaging
from core.models import bundle as bundles
from core.models import compute as computing
from core.storage import location


def run(
    run: location.Location,
    prefix: str,
    decoding: inference_settings.DecodingConfig,
    compute: schema.ComputeConfig,
    cluster: schema.ClusterConfig,
    seed: int = 1,
) -> dict[str, Any]:
    """Reads the prefix and adds `decoding.num_tokens` tokens; the same for the same seed, be it `decoding.seed`.

    Raises:
        UsageError: the run holds a seq2seq, or there is nothing to start from.
    """
    if decoding.seed is not None:
        seed = decoding.seed
    every = bundles.find_best(run, decoding.average_checkpoints)
    found, loaded = every[0], averaging.load([one.bundle for one in every])
    computing.set_threads(cluster.cpus_per_worker)
    device = "cuda" if cluster.use_gpu else "cpu"
    made = generator.Generator(loaded, decoding, compute, seed, device).continuation(prefix)
    report: dict[str, Any] = {
        "verb": "generate",
        "run": str(run),
        "checkpoint": str(found.checkpoint),
        "step": found.step,
        "passed_over": list(every[-1].passed_over),
        "method": decoding.method,
        "seed": seed,
        "prefix": prefix,
        "text": made.text,
        "num_tokens": made.num_tokens,
    }
    if made.num_unknown:
        report["warnings"] = [f"--prefix: {made.num_unknown} of its tokens are not in the vocabulary; read as <unk>"]
    return report
