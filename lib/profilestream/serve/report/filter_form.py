"""The filter of the report as HTML: a form, which is hidden until its script runs."""

import html

from profilestream.base.language import join_sentences, translate
from profilestream.serve.report import filter_words
from profilestream.serve.report.filter_data import Filters, Option


def form(filters: Filters) -> str:
    """The form. Without JavaScript it remains hidden, and the page shows everything."""
    fields = "".join(_field(name, options) for name, options in filters.choices.items())
    label, reset, about, note = (
        html.escape(translate(text))
        for text in (filter_words.LABEL, filter_words.RESET, filter_words.ABOUT, filter_words.NOTE)
    )
    sentences = join_sentences(*filters.left_out)
    left_out = f'<p class="note">{html.escape(sentences)}</p>' if sentences else ""
    return (
        f'<form class="filter" id="filter" aria-label="{label}" autocomplete="off" hidden>'
        f'<div class="fields">{fields}<button type="reset">{reset}</button></div>'
        f'<p id="filter-state" role="status"></p>{left_out}'
        f'<details><summary>{about}</summary><p class="note">{note}</p></details></form>'
    )


def _field(name: str, options: tuple[Option, ...]) -> str:
    texts = "".join(
        f'<option value="{html.escape(option.value)}">{html.escape(option.text)}</option>' for option in options
    )
    return f'<label>{html.escape(translate(filter_words.FIELDS[name]))}<select name="{name}">{texts}</select></label>'
