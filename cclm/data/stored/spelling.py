"""File names that look equal but are not: Unicode writes an accented letter as one character or as two.

macOS writes names decomposed (a letter, then its accent), and archives and copies keep that. Annotations usually have
the composed form, and Linux and object stores compare names byte by byte. So a file may be missing under a name that
looks exactly like one that exists.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

from cclm import storage

_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")

ADVICE = (
    "a file of this name exists, but its accents are written in the other way of Unicode (decomposed, as macOS does, "
    "or composed); rename the files, for example with: convmv -r -f utf8 -t utf8 --nfc --notest FOLDER"
)


def advice_on_spelling(path: str, otherwise: str) -> str:
    """What to do about a missing file: ADVICE if the path exists in another Unicode form, else `otherwise`."""
    if path.isascii():
        return otherwise
    folder, slash, name = path.rpartition("/")
    spellings = {unicodedata.normalize(form, path) for form in _FORMS}
    spellings |= {folder + slash + unicodedata.normalize(form, name) for form in _FORMS}
    return ADVICE if any(storage.exists(spelling) for spelling in sorted(spellings - {path})) else otherwise
