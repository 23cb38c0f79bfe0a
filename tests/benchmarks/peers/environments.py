"""Environments of other programs: made once, below one folder, from what PyPI has."""

import pathlib
import subprocess
import sys
import sysconfig
import tarfile

OPENNMT = (
    *("OpenNMT-py==3.5.1", "configargparse==1.9.0", "six==1.17.0", "pyahocorasick==2.3.1", "rapidfuzz==3.14.6"),
    *("waitress==3.0.2", "pyonmttok==1.38.1"),
)
"""Without dependencies: it pins an older torch. torch and what both need is that of this environment."""
KENLM = "kenlm==0.3.0"


def opennmt(folder: pathlib.Path) -> pathlib.Path:
    """Makes the environment of OpenNMT-py, unless it is there, and returns its Python."""
    home, python = folder / "opennmt", folder / "opennmt" / "bin" / "python"
    if not (home / "installed").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(home)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *OPENNMT])
        packages = next((home / "lib").glob("python*/site-packages"))
        (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
        (home / "installed").write_text("\n".join(OPENNMT), encoding="utf-8")
    return python


def lmplz(folder: pathlib.Path) -> pathlib.Path:
    """Builds KenLM's training program, unless it is there; needs cmake, a C++ compiler and boost (Debian's)."""
    home = folder / "kenlm"
    program = home / "build" / "bin" / "lmplz"
    if not program.exists():
        home.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "kenlm"]
        _run([*pip, "--dest", str(home), KENLM])
        (archive,) = home.glob("kenlm-*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(home, filter="data")
        source = home / archive.name.removesuffix(".tar.gz")
        _run(["cmake", "-S", str(source), "-B", str(home / "build"), "-DCMAKE_BUILD_TYPE=Release"])
        _run(["cmake", "--build", str(home / "build"), "--target", "lmplz"])
    return program


def _run(command: list[str]) -> None:
    sys.stderr.write(f"$ {' '.join(command)}\n")
    subprocess.run(command, check=True, stdout=sys.stderr)
