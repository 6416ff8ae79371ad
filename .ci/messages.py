"""Update the catalogs of the languages of the pages from the messages in the code.

reads: lib, lib/profilestream/base/languages/*.po   writes: the same .po files, and a compiled .mo file for each

New messages are added without a translation, and messages that no code uses are removed. docs/translations.md describes
how to add a message or a language.
"""

import io
import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

LIB = Path(__file__).resolve().parent.parent / "lib"
FOLDER = LIB / "profilestream" / "base" / "languages"
# Functions of base/language.py, with the numbers of the arguments that are messages.
KEYWORDS = {"message": None, "translate": None, "translate_count": (1, 2)}


def extract() -> Catalog:
    """All messages in the code, without translations."""
    catalog = Catalog(project="profilestream", charset="utf-8")
    for file, _, message, comments, _ in extract_from_dir(LIB, keywords=KEYWORDS, comment_tags=("Translators:",)):
        if message != "":
            catalog.add(message, locations=[(file, 1)], auto_comments=comments)
    return catalog


def read(language: str) -> Catalog:
    """The translations of a language."""
    with (FOLDER / f"{language}.po").open("rb") as file:
        return read_po(file, locale=language)


def updated(language: str) -> Catalog:
    """The translations of a language, with all messages in the code and no others."""
    catalog = read(language)
    catalog.update(extract(), no_fuzzy_matching=True, update_creation_date=False)
    catalog.obsolete.clear()
    return catalog


def po_text(catalog: Catalog) -> bytes:
    """The catalog for translators, in the order of the files; without line numbers, which change too often."""
    text = io.BytesIO()
    write_po(text, catalog, width=120, sort_by_file=True, include_lineno=False)
    return text.getvalue()


def mo_bytes(catalog: Catalog) -> bytes:
    """The catalog as gettext reads it."""
    compiled = io.BytesIO()
    write_mo(compiled, catalog)
    return compiled.getvalue()


def main() -> int:
    for path in sorted(FOLDER.glob("*.po")):
        catalog = updated(path.stem)
        path.write_bytes(po_text(catalog))
        path.with_suffix(".mo").write_bytes(mo_bytes(catalog))
        missing = sum(not message.string for message in catalog if message.id)
        print(f"{path.relative_to(LIB.parent)}: {len(catalog)} messages, {missing} without a translation")
    return 0


if __name__ == "__main__":
    sys.exit(main())
