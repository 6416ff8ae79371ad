"""Sections to one HTML page that needs nothing from anywhere. Pure; what comes from data is escaped here."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from string import Template

from profilestream.serve.report import assets
from profilestream.serve.report.chart_elements import Figure
from profilestream.serve.report.components import Plot, Section, Table, Tile

# The policy lets nothing be fetched, whatever a script or a text from the data asks for.
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<link rel="icon" href="data:,">
<title>profilestream: $title</title>
<style>$css</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="lead">$lead</p>
<ul class="tiles" aria-label="Key figures">$tiles</ul>
<nav aria-label="Sections">$links</nav>
</header>
<main>
$sections
</main>
<footer>Made by profilestream from the tables of the warehouse, at one moment; make it anew to see newer rows.</footer>
<script>$plotly</script>
<script type="application/json" id="figures">$figures</script>
<script>$js</script>
</body>
</html>
""")
_NUMBER = re.compile(r"[-–]?[\d,.]*%?|unknown")
_LONG = 28


def page(title: str, lead: str, tiles: Sequence[Tile], sections: Sequence[Section], plotly: str) -> str:
    """The whole page.

    Args:
        plotly: the text of plotly.js.
    """
    figures: dict[str, Figure] = {}
    told = [_section(section, figures) for section in sections]
    return _PAGE.substitute(
        title=html.escape(title),
        lead=html.escape(lead),
        css=assets.CSS,
        tiles="".join(map(_tile, tiles)),
        links="".join(f'<a href="#{one.name}">{html.escape(one.title)}</a>' for one in sections if not one.missing),
        sections="\n".join(told),
        plotly=plotly,
        figures=_json(figures),
        js=assets.JS,
    )


def _json(figures: Mapping[str, Figure]) -> str:
    """JSON that no text can end: within a script only `<` can."""
    return json.dumps(figures, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _tile(tile: Tile) -> str:
    note = f"<span>{html.escape(tile.note)}</span>" if tile.note else ""
    return (
        f'<li data-name="{html.escape(tile.name)}" data-value="{tile.value!r}"><b>{html.escape(tile.text)}</b>'
        f"<span>{html.escape(tile.label)}</span>{note}</li>"
    )


def _section(section: Section, figures: dict[str, Figure]) -> str:
    head = f'<section id="{section.name}" aria-labeledby="{section.name}-title"'
    heading = f'<h2 id="{section.name}-title">{html.escape(section.title)}</h2>'
    if section.missing:
        return f'{head} class="off">{heading}<p>{html.escape(section.missing)}</p></section>'
    parts: list[str] = []
    for part in section.parts:
        if isinstance(part, Plot):
            figures[f"{section.name}-{len(parts)}"] = part.figure
            parts.append(_plot(part, f"{section.name}-{len(parts)}", part.is_wide or len(section.parts) == 1))
        else:
            parts.append(f'<div class="part wide"><h3>{html.escape(part.title)}</h3>{_table(part)}</div>')
    return f'{head}>{heading}<div class="parts">{"".join(parts)}</div></section>'


def _plot(plot: Plot, name: str, is_wide: bool) -> str:
    said, title = html.escape(plot.said), html.escape(plot.title)
    rows = "" if plot.table is None else f"<details><summary>{html.escape(plot.table.title)}</summary>"
    rows += "" if plot.table is None else f"{_table(plot.table)}</details>"
    return (
        f'<figure class="part{" wide" if is_wide else ""}"><h3>{title}</h3><figcaption class="said">{said}</figcaption>'
        f'<div class="plot" id="{name}" role="img" aria-label="{title}. {said}"></div>{rows}</figure>'
    )


def _table(table: Table) -> str:
    """Columns of numbers go to the right."""
    by_column = list(zip(*table.rows, strict=True))
    classes = [_class(column) for column in by_column] or [""] * len(table.columns)
    heads = "".join(
        f'<th scope="col"{of.replace("long", "")}>{html.escape(column)}</th>'
        for column, of in zip(table.columns, classes, strict=True)
    )
    colors = table.colors or [""] * len(table.rows)
    rows = "".join(_row(row, classes, color) for row, color in zip(table.rows, colors, strict=True))
    label = html.escape(table.title)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _class(column: Sequence[str]) -> str:
    if all(_NUMBER.fullmatch(cell) for cell in column):
        return ' class="number"'
    return ' class="long"' if max(map(len, column)) > _LONG else ""


def _row(row: Sequence[str], classes: Sequence[str], color: str) -> str:
    mark = f'<span class="mark" data-color="{html.escape(color)}"></span>' if color else ""
    cells = [f"<td{of}>{html.escape(cell)}</td>" for cell, of in zip(row, classes, strict=True)]
    if mark:
        cells[0] = cells[0].replace(">", f">{mark}", 1)
    return f"<tr>{''.join(cells)}</tr>"
