"""What a page is made of, as text and figures."""

from dataclasses import dataclass

from profilestream.serve.report.chart_elements import Figure


@dataclass(frozen=True)
class Tile:
    """A key figure. `value` is what it stands for, for programs; `shown` for people."""

    name: str
    label: str
    value: float
    shown: str = ""
    note: str = ""

    @property
    def text(self) -> str:
        """What is shown; whole numbers have separators."""
        return self.shown or f"{self.value:,.0f}"


@dataclass(frozen=True)
class Table:
    """Rows of text under headings. `colors`: of a mark before each row, none when empty."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    colors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """A figure, what it shows and how it is read, and its numbers; a wide one has no other beside it."""

    title: str
    said: str
    figure: Figure
    table: Table | None = None
    is_wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page; one without parts says in `missing` what would fill it."""

    name: str
    title: str
    parts: tuple[Plot | Table, ...] = ()
    missing: str = ""
