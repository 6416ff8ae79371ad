"""Data classes of the report: key figures, tables, charts and sections; html_page.py renders them as HTML."""

from dataclasses import dataclass

from profilestream.base.language import translate
from profilestream.serve.report.chart_elements import Figure


@dataclass(frozen=True)
class KeyFigure:
    """A number at the top of the report.

    Args:
        name: id of the number, for programs.
        label: name for readers.
        value: the exact number, for programs.
        text: the number as shown; empty: `value` without decimals, with thousands separators.
        note: second line below the label.
    """

    name: str
    label: str
    value: float
    text: str = ""
    note: str = ""

    @property
    def shown(self) -> str:
        """The number as shown."""
        return self.text or f"{self.value:,.0f}"


@dataclass(frozen=True)
class TextTable:
    """Rows of text under column headings.

    Args:
        title: empty: that of the section.
        colors: color of the mark in front of each row; empty: no marks.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    colors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sentences:
    """Short texts, one below the other."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """A figure with a caption that explains it.

    Args:
        table: the numbers of the figure, in a collapsed block below it.
        is_wide: whether the chart takes the full width of the section.
    """

    title: str
    caption: str
    figure: Figure
    table: TextTable | None = None
    is_wide: bool = False


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Args:
        name: anchor of the section.
        hint: how to get the data, for a section without parts; else empty.
    """

    name: str
    title: str
    parts: tuple[Chart | TextTable | Sentences, ...] = ()
    hint: str = ""


@dataclass(frozen=True)
class Group:
    """Sections under one heading, with key figures above them.

    Args:
        name: anchor of the group.
    """

    name: str
    title: str
    key_figures: tuple[KeyFigure, ...]
    sections: tuple[Section, ...]


def missing_data(message: str, *, enable: str, capture: str, is_enabled: bool) -> str:
    """The hint of a section without data: that it is missing, and what to do.

    Args:
        message: with the placeholder `{do}` for what to do first.
        enable: what to do if the part is not enabled.
        capture: what to do if it is enabled.
    """
    return translate(message, do=translate(capture if is_enabled else enable))
