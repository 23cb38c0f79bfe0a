"""`python -m tests.k8s FILE…` checks manifests, without files the rendered overlays.

`python -m tests.k8s schemas FOLDER` takes `k8s/schemas` anew from the projects' definitions.
"""

import json
import sys
from pathlib import Path

from tests.k8s import manifests, rules, schemas


def main(arguments: list[str]) -> int:
    """Prints what is wrong; 0: nothing."""
    if arguments[:1] == ["schemas"]:
        for kind in schemas.SOURCES:
            text = json.dumps(schemas.reduced(Path(arguments[1]), kind), indent=1, sort_keys=True)
            (schemas.FOLDER / f"{kind}.json").write_text(text + "\n")
        return 0
    paths = [Path(argument) for argument in arguments] or sorted((manifests.KUBERNETES / "rendered").glob("*.yaml"))
    found = 0
    for path in paths:
        documents = manifests.read(path)
        wrong = [text for document in documents for text in schemas.complaints(document) or rules.complaints(document)]
        wrong += [] if wrong else rules.together(documents)
        found += len(wrong)
        print(f"{path}: {len(documents)} documents, {len(wrong)} complaints", *wrong, sep="\n  ")
    return 1 if found else 0


sys.exit(main(sys.argv[1:]))
