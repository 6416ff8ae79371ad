"""Write the checkout, with all Python packages and jars, into one file that installs on a machine without network.

reads: the checkout, .venv/jars, a Python package index   writes: profilestream-bundle.tar

On the other machine, `make set-up` in the unpacked folder finds `packages` and `bundle_jars`, and downloads nothing.
That machine needs a Python of the same minor version, the same kind of processor and operating system, and Java. The
packages for tests and checks are not part of the bundle.
"""

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import set_up

ROOT = Path(__file__).resolve().parent.parent
FILES = (".ci", "conf", "data", "deploy", "docs", "jobs", "lib", "Makefile", "README.md", "LICENSE", "pyproject.toml")
# What `pip install -e .` needs to build.
BUILD_PACKAGES = ("setuptools>=77",)


def checkout_files() -> Iterator[Path]:
    """Files of the checkout, relative to it, without caches of Python."""
    for name in FILES:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not any(part == "__pycache__" or part.endswith(".egg-info") for part in file.parts):
                yield file.relative_to(ROOT)


def download_packages(folder: str) -> None:
    """Write a wheel of every package that the jobs need; pip builds those that the index has as sources only."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run([*pip, "-c", "conf/constraints.txt", "-w", folder, ".", *BUILD_PACKAGES], cwd=ROOT, check=True)


def main(target: str) -> int:
    with tempfile.TemporaryDirectory() as folder, tarfile.open(target, "w") as archive:
        download_packages(folder)
        archive.add(folder, f"profilestream/{set_up.PACKAGES}")
        for jar in set_up.checksums((ROOT / "conf" / "jars.sha256").read_text()):
            archive.add(ROOT / ".venv" / "jars" / jar, f"profilestream/{set_up.JARS}/{jar}")
        for file in checkout_files():
            archive.add(ROOT / file, f"profilestream/{file}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or [str(ROOT / "profilestream-bundle.tar")]))
