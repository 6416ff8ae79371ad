"""Texts of the pages in the language of the reader.

The code contains the English messages; `languages/<language>.po` is the gettext catalog with their translations
(docs/translations.md). A job sets the language once; all functions below it read it from the context, so no text
depends on a global variable.
"""

import functools
import gettext
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import resources
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
ENGLISH: Language = "en"
_language: ContextVar[Language] = ContextVar("language", default=ENGLISH)
# A sentence follows one of these without a space.
_FULL_WIDTH_MARKS = "。！？：；，）"


@contextmanager
def use_language(language: Language) -> Iterator[None]:
    """Texts are in this language until the end of the block."""
    token = _language.set(language)
    try:
        yield
    finally:
        _language.reset(token)


def current() -> Language:
    """The language of the texts; English outside of `use_language`."""
    return _language.get()


@functools.cache
def _catalog(language: Language) -> gettext.NullTranslations:
    if language == ENGLISH:
        return gettext.NullTranslations()
    # Not gettext.find: the package may be a zip file.
    with resources.files(__package__).joinpath("languages", f"{language}.mo").open("rb") as file:
        return gettext.GNUTranslations(file)


def message(text: str) -> str:
    """The text itself: marks a constant as a message, which `translate` gets later."""
    return text


def translate(message: str, /, **values: object) -> str:
    """The message in the language of the context, with the values of its placeholders, such as `{count:,}`."""
    text = _catalog(current()).gettext(message) if message else ""
    return text.format(**values) if values else text


def translate_count(one: str, many: str, count: int, /, **values: object) -> str:
    """The form of the message for a number, such as `1 day` or `2 days`.

    Args:
        one, many: the English forms; `{number}` is the number with thousands separators.
        values: of the other placeholders; a `number` among them is shown instead of the count.
    """
    text = _catalog(current()).ngettext(one, many, count)
    return text.format(**{"number": f"{count:,}", **values})


def join_list(texts: Iterable[str]) -> str:
    """The texts as an enumeration, such as `a, b`; empty texts are left out."""
    return translate(", ").join(filter(None, texts))


def join_clauses(texts: Iterable[str]) -> str:
    """The texts as parts of a sentence, such as `a; b`; empty texts are left out."""
    return translate("; ").join(filter(None, texts))


def join_sentences(*sentences: str) -> str:
    """The sentences one after the other; empty ones are left out. There is no space after full-width punctuation."""
    text = ""
    for sentence in filter(None, sentences):
        text += sentence if not text or text[-1] in _FULL_WIDTH_MARKS else f" {sentence}"
    return text
