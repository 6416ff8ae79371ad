"""Files of an unknown log: which files belong to the log, and a sample of their lines."""

import bz2
import gzip
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from profilestream.base.errors import SourceMissing, SourceUnreadable
from profilestream.capture.sources import file_paths

MAX_LINES, MAX_BYTES = 10_000, 4 << 20
_COMPRESSIONS = (".gz", ".zst", ".zstd", ".bz2")
_DOCUMENTS = (".md", ".rst", ".pdf", ".html", ".htm", ".py", ".sh", ".toml", ".yaml", ".yml", ".png", ".jpg", ".sql",
              ".zip", ".tar", ".xlsx", ".crc", ".doc", ".docx", ".r", ".ipynb", ".license")  # fmt: skip
# A plain file up to this size is read completely to find sample lines; of a larger one, eight parts are read.
_SMALL_FILE_BYTES = 64 << 20
_PARTS = 8


@dataclass(frozen=True)
class FileGroup:
    """Files of one kind: the same extension, and the same name apart from digits.

    Args:
        root: folder of the source.
        glob: pattern of the file names, for the mapping; empty if the folder contains no other files.
        paths: the files, sorted.
    """

    root: Path
    glob: str
    paths: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def extension(self) -> str:
        """The extension in lower case, without that of a compression."""
        return _plain_extension(self.paths[0])


def is_delta(path: Path) -> bool:
    """Whether the folder is a Delta table."""
    return (path / "_delta_log").is_dir()


def list_groups(path: Path) -> list[FileGroup]:
    """Groups of the data files at a path, largest first. Documents, and names that start with `_` or `.`, are ignored.

    Raises:
        SourceMissing: the path does not exist, or contains no data file.
    """
    if not path.exists():
        raise SourceMissing(f"there is no input at {path}", where="PATH", do="name a local file, folder or Delta table")
    if path.is_file():
        return [FileGroup(path.parent, _escape_glob(path.name), (path,))]
    files = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path)))
    data = [file for file in files if _plain_extension(file) not in _DOCUMENTS and file.stat().st_size]
    kinds = defaultdict(list)
    for file in data:
        kinds[_kind(file)].append(file)
    if not kinds:
        raise SourceMissing(f"{path} contains no data file", where="PATH", do="name a file or folder with a log")
    groups = [
        FileGroup(path, _glob(group, [f for f in files if f not in group]) if len(files) > len(group) else "",
                  tuple(group))
        for group in kinds.values()
    ]  # fmt: skip
    return sorted(groups, key=lambda group: -group.size)


def sample_lines(group: FileGroup) -> list[tuple[Path, list[bytes]]]:
    """Lines of the first, middle and last file, without line ends; each file's first lines are included.

    Raises:
        SourceUnreadable: a compressed file cannot be read.
    """
    paths = first_middle_last(group.paths)
    return [(path, _lines_of_file(path, MAX_LINES // len(paths), MAX_BYTES // len(paths))) for path in paths]


def first_middle_last(paths: tuple[Path, ...]) -> list[Path]:
    """At most three of the files, without repetition."""
    return list(dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]]))


def partitions(path: Path, root: Path) -> dict[str, str | None]:
    """Partition values of folders between the root and a file: `date=2026-03-01/part.csv` -> {"date": "2026-03-01"}."""
    return file_paths.folder_values(str(path.relative_to(root)))


def line_separator(head: bytes) -> bytes:
    """The bytes that end a line: those of UTF-16 or UTF-32 if the bytes are in one of them."""
    if head[2:4] == b"\0\0":
        return b"\n\0\0\0"
    if head.startswith(b"\0\0"):
        return b"\0\0\0\n"
    if head.startswith(b"\xff\xfe") or (head[1:2] == b"\0" and head[:1] != b"\0"):
        return b"\n\0"
    return b"\0\n" if head.startswith((b"\xfe\xff", b"\0")) else b"\n"


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(("_", ".")) for part in path.parts)


def _plain_extension(path: Path) -> str:
    name = path.name.lower()
    stem, extension = os.path.splitext(name)
    return os.path.splitext(stem)[1] if extension in _COMPRESSIONS else extension


def _kind(path: Path) -> tuple[str, str]:
    """Two part files of one writer have the same kind: their names differ in digits and hexadecimal ids only."""
    stem = path.name.split(".")[0].lower()
    return re.sub(r"([0-9a-f]{8,}|[0-9]+|[-_])+", "#", stem), _plain_extension(path)


def _glob(group: list[Path], others: list[Path]) -> str:
    """The shortest pattern that matches all names of the group and no other name."""
    names = [path.name for path in group]
    suffix = _plain_extension(group[0])
    common = _escape_glob(os.path.commonprefix(names))
    patterns = [f"*{suffix}", f"*{suffix}*", f"{common}*{suffix}", f"{common}*"]
    if len(names) == 1:
        patterns = [*patterns[:2], _escape_glob(names[0])]
    for pattern in patterns:
        if all(Path(n).match(pattern) for n in names) and not any(Path(f.name).match(pattern) for f in others):
            return pattern
    return patterns[-1]


def _escape_glob(name: str) -> str:
    return re.sub(r"([][*?{}])", r"?", name)


def _open(path: Path) -> BinaryIO:
    extension = path.suffix.lower()
    if extension == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if extension == ".bz2":
        return cast(BinaryIO, bz2.open(path))
    if extension in (".zst", ".zstd"):
        return cast(BinaryIO, pa.input_stream(str(path), compression="zstd"))
    return open(path, "rb")


def _lines_of_file(path: Path, max_lines: int, max_bytes: int) -> list[bytes]:
    try:
        with _open(path) as file:
            blocks = list(_blocks(file, path, max_bytes))
    except (OSError, EOFError, pa.ArrowException) as error:
        raise SourceUnreadable(
            f"a file cannot be read: {error}", where=str(path), do="repair or remove the file"
        ) from None
    lines = [line for block in blocks for line in block[: -(-max_lines // len(blocks))]]
    return lines[:max_lines]


def _blocks(file: BinaryIO, path: Path, max_bytes: int) -> Iterator[list[bytes]]:
    """Lists of complete lines from up to eight places of the file; the first list begins at the start of the file."""
    is_compressed = path.suffix.lower() in _COMPRESSIONS
    size = _SMALL_FILE_BYTES if is_compressed else path.stat().st_size
    length = max_bytes // _PARTS
    head = file.read(length)
    separator = line_separator(head)
    if is_compressed or size <= max_bytes:
        head += file.read((_SMALL_FILE_BYTES if is_compressed else size) - len(head))
        yield from _parts_of(_split(head, separator, is_start=True, is_end=len(head) < _SMALL_FILE_BYTES), max_bytes)
        return
    yield _split(head, separator, is_start=True, is_end=False)
    for part in range(1, _PARTS):
        file.seek((size - length) * part // (_PARTS - 1) // len(separator) * len(separator))
        yield _split(file.read(length), separator, is_start=False, is_end=part == _PARTS - 1)


def _parts_of(lines: list[bytes], max_bytes: int) -> Iterator[list[bytes]]:
    """The lines in eight parts, cut to the bytes and lines of a sample."""
    per_part = max(1, -(-len(lines) // _PARTS))
    for start in range(0, len(lines), per_part):
        part: list[bytes] = []
        size = 0
        for line in lines[start : start + per_part]:
            size += len(line)
            if part and size > max_bytes // _PARTS:
                break
            part.append(line)
        yield part


def _split(data: bytes, separator: bytes, *, is_start: bool, is_end: bool) -> list[bytes]:
    """Complete lines: without the first one unless the data start with a line, and without an unfinished last one."""
    lines = data.split(separator)
    last = len(lines) - (1 if not is_end or not lines[-1] else 0)
    lines = lines[0 if is_start else 1 : last] or lines[:1]
    carriage_return = separator.replace(b"\n", b"\r")
    return [line.removesuffix(carriage_return) for line in lines]
