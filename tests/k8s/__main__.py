"""Command line: `python -m tests.k8s FILE…` checks manifests; without files, the rendered overlays.

`python -m tests.k8s schemas FOLDER` regenerates `k8s/schemas` from the projects' definitions.
"""

import json
import sys
from pathlib import Path

from tests.k8s import manifests, rules, schemas


def main(arguments: list[str]) -> int:
    """Prints all violations; returns the exit code, 0 if there are none."""
    if arguments[:1] == ["schemas"]:
        for kind in schemas.SOURCES:
            text = json.dumps(schemas.reduced(Path(arguments[1]), kind), indent=1, sort_keys=True)
            (schemas.FOLDER / f"{kind}.json").write_text(text + "\n")
        return 0
    paths = [Path(argument) for argument in arguments] or sorted((manifests.KUBERNETES / "rendered").glob("*.yaml"))
    num_violations = 0
    for path in paths:
        documents = manifests.read(path)
        # Monitoring refers to pods of jobs, which are in another file.
        others = [] if any(manifests.of_kind(documents, "RayJob")) else manifests.rendered("cpu")
        violations = [
            text for document in documents for text in schemas.violations(document) or rules.violations(document)
        ]
        # References are checked only between documents that are valid on their own.
        violations += [] if violations else rules.reference_violations([*documents, *others])
        num_violations += len(violations)
        print(f"{path}: {len(documents)} documents, {len(violations)} violations", *violations, sep="\n  ")
    return 1 if num_violations else 0


sys.exit(main(sys.argv[1:]))
