# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages' message catalogues: `python -m tests.pages.catalogues` brings them up to date with templates and code.

Texts are in English where they are used; a translator fills in relay/pages/locale/LANGUAGE.po, with any editor for
such files, and runs this again, which makes the .mo that is read at run time.
"""

import io
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from relay.pages.language import LANGUAGES, LOCALE

RELAY = LOCALE.parents[1]
METHODS = [("pages/templates/**.html", "jinja2"), ("**.py", "python")]
KEYWORDS = {"_": None, "gettext": None, "ngettext": (1, 2), "N_": None}
TRANSLATED = [language.code for language in LANGUAGES[1:]]


def template():
    """Every text that templates and code have, without line numbers, which change with each edit."""
    found = Catalog(project="mesh-relay", charset="utf-8", fuzzy=False)
    for name, _, message, comments, context in extract_from_dir(RELAY, METHODS, keywords=KEYWORDS):
        found.add(message, None, [(name, None)], auto_comments=comments, context=context)
    return found


def read(code):
    """The catalogue of a language as it is in the repository."""
    with (LOCALE / f"{code}.po").open("rb") as file:
        return read_po(file, locale=code)


def po(catalogue):
    """A catalogue's text: sorted, without dates."""
    written = io.BytesIO()
    write_po(
        written, catalogue, width=100, omit_header=True, sort_output=True, ignore_obsolete=True, include_lineno=False
    )
    plural = f'"Plural-Forms: {catalogue.plural_forms}\\n"\n'
    header = (
        "# SPDX-License-Identifier: GPL-2.0-or-later\n"
        'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=utf-8\\n"\n'
        f'"Language: {catalogue.locale}\\n"\n{plural}\n'
    )
    return header.encode() + written.getvalue()


def mo(catalogue):
    """What gettext reads."""
    # Dates would make each build another one.
    catalogue.creation_date = catalogue.revision_date = datetime.fromtimestamp(0, UTC)
    written = io.BytesIO()
    write_mo(written, catalogue)
    return written.getvalue()


def main():
    """Update all languages."""
    texts = template()
    for code in TRANSLATED:
        path = Path(LOCALE / f"{code}.po")
        catalogue = read(code) if path.exists() else Catalog(locale=code, charset="utf-8", fuzzy=False)
        catalogue.update(texts, no_fuzzy_matching=True)
        path.write_bytes(po(catalogue))
        catalogue = read(code)
        path.with_suffix(".mo").write_bytes(mo(catalogue))
        missing = [message.id for message in catalogue if message.id and not all_of(message)]
        print(f"{code}: {len(catalogue)} texts, {len(missing)} not translated")


def all_of(message):
    """Whether every form is translated."""
    return all(message.string) if isinstance(message.string, tuple) else bool(message.string)


if __name__ == "__main__":
    main()
