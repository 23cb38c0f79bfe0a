"""The container image: copied files exist, dependencies are pinned to the tested versions, it does not run as root."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.k8s import manifests, rules

ROOT = manifests.KUBERNETES.parent
DOCKERFILE = re.sub(r"\\\n", " ", (manifests.KUBERNETES / "Dockerfile").read_text())
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
PINNED = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)( --hash=sha256:[0-9a-f]{64})+")


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def pins(name: str) -> dict[str, str]:
    """Returns the versions in a requirements file, in which each line must have a hash."""
    text = re.sub(r" \\\n +", " ", (manifests.KUBERNETES / name).read_text())
    versions = {}
    for line in text.splitlines():
        if line and not line.startswith(("#", "--extra-index-url")):
            match = PINNED.fullmatch(line)
            assert match, f"{name}: {line}"
            versions[match["name"]] = match["version"]
    return versions


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_copied_files_exist_and_are_not_ignored() -> None:
    ignored = (manifests.KUBERNETES / "Dockerfile.dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    for words in arguments("COPY"):
        sources = [word for word in words.split()[:-1] if not word.startswith("--from")]
        for source in sources if "--from=" not in words else []:
            assert (ROOT / source).exists(), source
            assert any(Path(source).match(pattern) for pattern in kept), source


def test_the_user_is_that_of_the_manifests() -> None:
    assert INSTRUCTIONS[-3] == ["USER", "10001:10001"]
    assert int(arguments("USER")[-1].split(":")[0]) >= rules.SMALLEST_UID
    for job in manifests.of_kind(manifests.rendered("cpu"), "RayJob"):
        for pod in manifests.pods(job):
            assert pod.template["spec"]["securityContext"]["runAsUser"] == 10001


def test_base_images_have_a_version_and_pip_requires_hashes() -> None:
    assert all(re.search(r":3\.11-slim-\w+( AS \w+)?$", image) for image in arguments("FROM"))
    installs = [command for command in arguments("RUN") if "pip install" in command]
    assert all("--no-deps" in command for command in installs)
    assert all("--require-hashes" in command for command in installs if "--requirement" in command)


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_a_locked_setup_installs_by_the_hashes_of_the_image(variant: str) -> None:
    command = ["make", "--dry-run", "--always-make", "setup", "LOCKED=1", f"VARIANT={variant}"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs = [line for line in printed.replace("\\\n", "").splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert all("--no-deps" in line for line in installs)
    assert "--require-hashes" in installs[0]
    assert f"--requirement k8s/requirements-{variant}.txt" in installs[0]
    assert installs[1].endswith("--editable .")


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_both_variants_pin_the_tested_versions(variant: str) -> None:
    constraints = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    tested = {normal(name): version for name, version in constraints}
    shipped = pins("requirements.txt")
    own = pins(f"requirements-{variant}.txt")
    assert not shipped.keys() & own.keys()
    differing = {
        name: (version, tested[name]) for name, version in shipped.items() if tested.get(name, version) != version
    }
    assert differing == {}
    assert own["torch"].partition("+")[0] == tested["torch"]


def test_all_dependencies_of_the_project_are_pinned() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["s3"]]
    names = {normal(re.split(r"[\[<>=]", text)[0]) for text in needed}
    assert names - pins("requirements.txt").keys() == {"torch"}


def test_the_version_of_ray_in_the_manifests_is_that_of_the_image() -> None:
    for document in manifests.of_kind(manifests.rendered("cpu"), "RayJob", "RayCluster"):
        assert manifests.cluster(document)["rayVersion"] == pins("requirements.txt")["ray"]


def test_image_tags_have_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    paths = [manifests.KUBERNETES / "Dockerfile", manifests.KUBERNETES / "README.md"]
    paths += sorted(manifests.KUBERNETES.glob("overlays/*/kustomization.yaml"))
    tags = re.findall(r"raycurrent(?::|, newTag: )([0-9.]+)-[cg]pu", "\n".join(path.read_text() for path in paths))
    assert len(tags) > 5
    assert set(tags) == {version}
