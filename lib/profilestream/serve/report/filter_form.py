"""The filter of the report as HTML: a form, which is hidden until its script runs."""

import html

from profilestream.base.language import join_sentences, translate
from profilestream.serve.report import filter_words
from profilestream.serve.report.filter_data import Filters, Option


def form(filters: Filters) -> str:
    """The form. Without JavaScript it remains hidden, and the page shows everything."""
    fields = "".join(_field(name, options) for name, options in filters.choices.items())
    note = join_sentences(translate(filter_words.NOTE), *filters.left_out)
    label, reset = html.escape(translate(filter_words.LABEL)), html.escape(translate(filter_words.RESET))
    return (
        f'<form class="filter" id="filter" aria-label="{label}" autocomplete="off" hidden>'
        f'<div class="fields">{fields}<button type="reset">{reset}</button></div>'
        f'<p id="filter-state" role="status"></p><p class="note">{html.escape(note)}</p></form>'
    )


def _field(name: str, options: tuple[Option, ...]) -> str:
    texts = "".join(
        f'<option value="{html.escape(option.value)}">{html.escape(option.text)}</option>' for option in options
    )
    return f'<label>{html.escape(translate(filter_words.FIELDS[name]))}<select name="{name}">{texts}</select></label>'
