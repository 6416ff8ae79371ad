"""Texts by the columns that they take on a screen: a Chinese character and an emoji take two, a Latin letter one."""

import unicodedata

from rich import cells

_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"


def width(text: str) -> int:
    """Number of columns; combining characters take none (Unicode Standard Annex 11)."""
    return cells.cell_len(text)


def shorten(text: str, max_width: int) -> str:
    """The text, cut to the maximum number of columns with an ellipsis; characters of several code points stay whole."""
    if width(text) <= max_width:
        return text
    return cells.chop_cells(text, max_width - 1)[0].rstrip() + "…"


def pad(text: str, to_width: int) -> str:
    """The text with spaces behind it, up to a number of columns."""
    return text + " " * (to_width - width(text))


def isolate(text: str) -> str:
    """The text so that numbers after it are in their place also if it is written from right to left (UAX 9)."""
    is_from_right = any(unicodedata.bidirectional(character) in ("R", "AL") for character in text)
    return f"{_ISOLATE}{text}{_END_ISOLATE}" if is_from_right else text
