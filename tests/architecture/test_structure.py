"""The rules of structure: who may import what, how long things are, what a light command loads."""

import ast
import graphlib
import importlib.metadata
import subprocess
import sys

import pytest

from tests.architecture import source

# Folder: the folders of ours and the outside packages, besides the standard library, that it may import. A folder
# may import itself. Folders only name folders above them, so that there is no cycle between folders.
INNER = {"core.errors", "core.config", "core.storage", "core.telemetry"}
TEXT = INNER | {"core.data", "core.data.text"}
TOKENS = TEXT | {"core.data.batching", "core.data.tokens"}
DATA = TOKENS | {"core.data.dataset"}
SERIES = TEXT | {"core.data.series"}
MODELS = DATA | SERIES | {"core.models", "core.models.ngram"}
LINES = MODELS | {"core.decoding", "core.decoding.lines"}
SEARCH = LINES | {"core.decoding.translation"}
CORE = SEARCH | {"core.data.builtin", "core.decoding.scoring", "core.decoding.generation", "core.training"}
OUTER = CORE | {"core.evaluation", "core.reporting"}
WORKERS = {f"workers.{name}" for name in ("cluster", "fanout", "infer", "prepare", "telemetry")}
ARROW, TORCH = {"numpy", "pyarrow"}, {"torch", "numpy"}
FOLDERS: dict[str, tuple[set[str], set[str]]] = {
    "core.errors": (set(), set()),
    "core.telemetry": (set(), set()),
    "core.config": ({"core.errors"}, {"pydantic", "pydantic_core", "yaml"}),
    "core.storage": ({"core.errors"}, {"fsspec"}),
    "core.data": (INNER | {"core.data.batching"}, ARROW),
    "core.data.text": (TEXT, ARROW),
    "core.data.batching": (INNER, {"numpy"}),
    "core.data.builtin": (INNER, {"numpy"}),
    "core.data.tokens": (TOKENS, {"numpy", "tokenizers"}),
    "core.data.dataset": (DATA, ARROW),
    "core.data.series": (SERIES, ARROW),
    "core.models": (MODELS, TORCH | {"safetensors"}),
    "core.models.ngram": (MODELS, TORCH),
    "core.training": (MODELS, TORCH | {"safetensors"}),
    "core.decoding": (MODELS, TORCH),
    "core.decoding.lines": (LINES, {"pyarrow"}),
    "core.decoding.translation": (SEARCH, TORCH | {"pyarrow", "safetensors"}),
    "core.decoding.scoring": (SEARCH, TORCH | {"safetensors"}),
    "core.decoding.generation": (LINES, TORCH),
    "core.evaluation": ({"core.errors", "core.config", "core.storage", "core.data.text"}, {"sacrebleu"}),
    "core.reporting": (
        INNER
        | {
            "core.data.text",
            "core.data.dataset.statistics",
            "core.evaluation.expected_quality",
            "core.training.run_log",
        },
        {"jinja2", "markupsafe", "matplotlib"},
    ),
    "workers.fanout": (INNER, set()),
    "workers.telemetry": (INNER | {"core.training"}, set()),
    "workers.cluster": (INNER | {"workers.fanout", "workers.telemetry"}, set()),
    "workers.prepare": (DATA | {"workers.fanout"}, set()),
    "workers.infer": (CORE - {"core.training"} | {"workers.fanout"}, {"torch"}),
    "workers.train": (
        OUTER | {f"workers.{name}" for name in ("cluster", "fanout", "infer", "prepare", "telemetry")},
        {"torch"},
    ),
    "jobs": (
        OUTER | {f"workers.{name}" for name in ("cluster", "fanout", "infer", "prepare", "telemetry", "train")},
        {"typer", "rich"},
    ),
}
RAY = (
    *("cluster.session", "cluster.nodes", "cluster.submission", "fanout.ray_actors"),
    *("train.launch", "train.ranks", "train.actor_group", "train.ray_train"),
)
ONLY_IN = {
    "ray": {f"workers.{name}" for name in RAY},
    "prometheus_client": {"workers.telemetry.prometheus"},
    "tensorboard": {"workers.telemetry.tensorboard"},
}
ALSO = {module: {"ray", "pyarrow", "fsspec"} for module in ONLY_IN["ray"]} | {
    "workers.telemetry.prometheus": {"prometheus_client"},
    "workers.telemetry.tensorboard": {"tensorboard"},
    "jobs.rayjob": {"yaml"},  # the pattern of a RayJob is YAML with comments and anchors, no configuration of ours
}
JOBS_WITH_SIBLINGS = {
    "jobs.arpa_commands",
    *("jobs.__main__", "jobs.submission_commands", "jobs.api", "jobs.pipeline", "jobs.demo", "jobs.sweep"),
    *("jobs.kubernetes", "jobs.submitted"),  # of `submit`
}
VERBS = {
    *("init", "prepare", "train", "translate", "score", "generate", "forecast", "evaluate", "pipeline"),
    *("demo", "report", "inspect", "submit", "sweep", "arpa"),
}
# All others hand on what they did not mean; `starting` does so in another thread.
BROAD_EXCEPT = {"jobs.execution", "core.storage.retries", "workers.cluster.starting"}

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
# "module:function": the reason why it may be longer
LONG_FUNCTIONS: dict[str, str] = {}

MODULES = source.modules()


def folder(name: str) -> str:
    """The row of `FOLDERS` that a module, or an import, belongs to: the longest that its name begins with."""
    return max((row for row in FOLDERS if f"{name}.".startswith(f"{row}.")), key=len, default=name)


def is_ours(name: str) -> bool:
    return name.split(".")[0] in source.PACKAGES


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_imports_are_those_of_the_folder(module: source.Module) -> None:
    if module.name in source.PACKAGES:
        return
    own, foreign = FOLDERS[folder(module.name)]
    for name in source.imports(module):
        if is_ours(name):
            assert folder(name) == folder(module.name) or {name, folder(name)} & own, f"{module.path} imports {name}"
            if module.name.startswith("jobs.") and name.startswith("jobs."):
                is_verb = name.removeprefix("jobs.") in VERBS
                assert not is_verb or module.name in JOBS_WITH_SIBLINGS, f"{module.path} imports its sibling {name}"
        elif name.split(".")[0] not in sys.stdlib_module_names:
            package = name.split(".")[0]
            assert package in foreign | ALSO.get(module.name, set()), f"{module.path} imports {name}"


def test_there_is_no_cycle_between_folders() -> None:
    """A parent folder and its own subfolders count as one step: files of theirs are held by the test of files."""
    order = graphlib.TopologicalSorter[str]()
    for module in MODULES:
        for name in filter(is_ours, source.imports(module)):
            own, other = folder(module.name), folder(name)
            if not f"{own}.".startswith(f"{other}.") and not f"{other}.".startswith(f"{own}."):
                order.add(own, other)
    order.prepare()  # raises CycleError with the folders of the cycle


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_one_place_for_each_outer_library(module: source.Module) -> None:
    for name in source.imports(module):
        allowed = ONLY_IN.get(name.split(".")[0])
        assert allowed is None or module.name in allowed, f"{module.path} imports {name}"


def test_no_import_cycles() -> None:
    names = {module.name for module in MODULES}
    edges = {
        module.name: {name for name in source.imports(module) if name in names and name != module.name}
        for module in MODULES
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path[path.index(name) :], name))
        if name not in done:
            for inner in sorted(edges[name]):
                visit(inner, (*path, name))
            done.add(name)

    for name in sorted(names):
        visit(name, ())


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_files_and_functions_are_short(module: source.Module) -> None:
    assert module.num_lines <= LONGEST_FILE, f"{module.path} has {module.num_lines} lines"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            exempt = f"{module.name}:{node.name}" in LONG_FUNCTIONS
            assert length <= LONGEST_FUNCTION or exempt, f"{module.path}: {node.name} has {length} lines"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_what_is_caught_broadly_is_handed_on_but_in_three_places(module: source.Module) -> None:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            broad = caught in ("everything", "Exception", "BaseException")
            cleans_up = ast.unparse(node.body[-1]) == "raise"
            assert not broad or cleans_up or module.name in BROAD_EXCEPT, (
                f"{module.path}:{node.lineno} catches {caught}"
            )


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_nothing_that_runs_code_from_a_file_is_called(module: source.Module) -> None:
    forbidden = {"torch.load", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "eval", "exec"}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in forbidden, f"{module.path}:{node.lineno} calls {called}"
            # Unpacking an archive writes files under names that the archive chooses.
            unpacks = called.startswith("tarfile.") or called.endswith((".extract", ".extractall", ".unpack_archive"))
            assert not unpacks, f"{module.path}:{node.lineno} unpacks an archive"
            for keyword in node.keywords:
                dangerous = keyword.arg in ("allow_pickle", "shell") and ast.unparse(keyword.value) == "True"
                assert not dangerous, f"{module.path}:{node.lineno} passes {keyword.arg}=True"


@pytest.mark.parametrize("module", [m for m in MODULES if m.path.name == "__init__.py"], ids=lambda module: module.name)
def test_packages_export_nothing(module: source.Module) -> None:
    assert ast.get_docstring(module.tree), f"{module.path}: say what the package is"
    assert len(module.tree.body) == 1, f"{module.path}: one name, one path; export nothing here"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "no-such-file.yaml"]])
def test_light_commands_load_neither_torch_nor_ray(arguments: list[str]) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['jobs', *{arguments!r}]\n"
        "try:\n    runpy.run_module('jobs', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "sys.stderr.write('loaded=' + ','.join(m for m in ('torch', 'ray') if m in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source.REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stderr.endswith("loaded="), done.stderr[-500:]


def test_the_packages_are_those_of_this_repository() -> None:
    for package in source.PACKAGES:
        module = __import__(package)
        assert module.__file__ is not None
        assert module.__file__.startswith(str(source.REPOSITORY))
    files = importlib.metadata.files("raycurrent")
    assert files is not None, "the distribution is not installed; run make setup"
