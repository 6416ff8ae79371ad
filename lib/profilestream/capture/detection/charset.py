"""The character encoding of a text file, by decoding a sample of it."""

from dataclasses import dataclass

# Share of bytes above 127 that are next to such a byte. Chinese text in GBK has nearly 1, since a character has two
# bytes and words have several characters; German text in Windows-1252 has nearly 0.
_MIN_PAIRED_SHARE = 0.6


@dataclass(frozen=True)
class Charset:
    """An encoding.

    Args:
        java: name of the Java charset, for `input.encoding`.
        python: name of the Python codec.
        evidence: why it was chosen.
        is_sure: false if another encoding of the same bytes is possible.
    """

    java: str
    python: str
    evidence: str
    is_sure: bool = True


UTF8 = Charset("UTF-8", "utf-8-sig", "the sample is valid UTF-8")


def detect(lines: list[bytes]) -> Charset:
    """The encoding of the lines of a sample; UTF-8 unless the lines are not valid UTF-8."""
    data = b"\n".join(lines)
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        little = data.startswith(b"\xff")
        return Charset("UTF-32", "utf-32-le" if little else "utf-32-be", "the file starts with the UTF-32 byte mark")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        little = data.startswith(b"\xff\xfe")
        return Charset("UTF-16", "utf-16-le" if little else "utf-16-be", "the file starts with the UTF-16 byte mark")
    head = data[:2000]
    if head.count(b"\0") > len(head) // 2:
        little = not head.startswith(b"\0")
        return Charset("UTF-32LE" if little else "UTF-32BE", "utf-32-le" if little else "utf-32-be",
                       "three of four bytes are zero")  # fmt: skip
    if head.count(b"\0") > len(head) // 4:
        little = head[1::2].count(b"\0") > head[::2].count(b"\0")
        return Charset("UTF-16LE" if little else "UTF-16BE", "utf-16-le" if little else "utf-16-be",
                       "every second byte is zero")  # fmt: skip
    invalid = [line for line in lines if not _is_decodable(line, "utf-8")]
    # Some damaged lines in UTF-8 text are rejected one by one.
    if len(invalid) * 20 < sum(1 for line in lines if not line.isascii()) or not invalid:
        return UTF8
    for java, python in (("GBK", "gbk"), ("GB18030", "gb18030")):
        decodable = sum(_is_decodable(line, python) for line in invalid)
        if decodable >= 0.99 * len(invalid) and _paired_share(b"\n".join(invalid)) >= _MIN_PAIRED_SHARE:
            return Charset(java, python, f"the sample is not UTF-8, but Chinese text in {java}")
    return Charset(
        "windows-1252", "cp1252", "the sample is not UTF-8; single bytes above 127, as in Western Europe", False
    )


def decode(line: bytes, charset: Charset) -> str:
    """The text of a line; bytes that cannot be decoded are replaced."""
    return line.decode(charset.python, errors="replace").lstrip("\ufeff")


def _is_decodable(line: bytes, codec: str) -> bool:
    try:
        line.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def _paired_share(data: bytes) -> float:
    high = [byte > 127 for byte in data]
    paired = sum(is_high and (high[i - 1] or high[i + 1 : i + 2] == [True]) for i, is_high in enumerate(high))
    return paired / max(1, sum(high))
