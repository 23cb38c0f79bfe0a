"""Both sides of `prepare`: ours, and the tokenizers library alone on the same lines."""

import importlib.metadata

from tests.benchmarks import preparing
from tests.benchmarks.peers import sides


def _side(name: str) -> sides.Builder:
    def build(settings: sides.Settings) -> sides.Run:
        run = preparing.variants(settings["tokenizer"])[name]
        return lambda: sides.Round(run().amount)

    return build


if __name__ == "__main__":
    version = importlib.metadata.version("tokenizers")
    sides.serve({"prepare_ours": _side("ours"), "prepare_library": _side("baseline")}, {"tokenizers": version})
