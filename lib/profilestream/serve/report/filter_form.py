"""The filter of the report as HTML: a form, which is hidden until its script runs."""

import html

from profilestream.serve.report import filter_words
from profilestream.serve.report.filter_data import Filters, Option


def form(filters: Filters) -> str:
    """The form. Without JavaScript it remains hidden, and the page shows everything."""
    fields = "".join(_field(name, options) for name, options in filters.choices.items())
    left_out = f'<p class="note">{html.escape(" ".join(filters.left_out))}</p>' if filters.left_out else ""
    return (
        f'<form class="filter" id="filter" aria-label="{html.escape(filter_words.LABEL)}" autocomplete="off" hidden>'
        f'<div class="fields">{fields}<button type="reset">{html.escape(filter_words.RESET)}</button></div>'
        f'<p id="filter-state" role="status"></p>{left_out}'
        f"<details><summary>{html.escape(filter_words.ABOUT)}</summary>"
        f'<p class="note">{html.escape(filter_words.NOTE)}</p></details></form>'
    )


def _field(name: str, options: tuple[Option, ...]) -> str:
    texts = "".join(
        f'<option value="{html.escape(option.value)}">{html.escape(option.text)}</option>' for option in options
    )
    return f'<label>{html.escape(filter_words.FIELDS[name])}<select name="{name}">{texts}</select></label>'
