"""Pack numpy, pyarrow and the package for the workers into one archive for `spark-submit --archives`.

reads: .venv, lib   writes: profilestream-workers.tar.gz

The archive contains no Python: the workers need one of the same minor version, on the same kind of machine. The driver
needs more packages (conf/constraints.txt).
"""

import sys
import tarfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "pyarrow")
# Not needed at run time; a third of the archive.
_EXCLUDED = ("tests", "include", "src", "__pycache__")


def members() -> Iterator[tuple[Path, str]]:
    """Files and their names in the archive."""
    for package in PACKAGES:
        for file in metadata.files(package) or ():
            if ".." not in file.parts and not set(_EXCLUDED) & set(file.parts):
                yield Path(str(file.locate())), str(file)
    for module in sorted((ROOT / "lib" / "profilestream").rglob("*.py")):
        yield module, str(module.relative_to(ROOT / "lib"))


def main(target: str) -> int:
    with tarfile.open(target, "w:gz", compresslevel=6) as archive:
        for file, name in members():
            archive.add(file, name, recursive=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or [str(ROOT / "profilestream-workers.tar.gz")]))
