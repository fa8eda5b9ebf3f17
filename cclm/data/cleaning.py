"""Text cleaning as published.

Cleaning decides which words a model sees, so it follows the published code to the space; tests hold it against
`tests/golden/extra.json`.
"""

from __future__ import annotations

import re

_TO_SPACE = str.maketrans({character: " " for character in ",.'!?\"()*#:;~-/"})
_WHITE_RUN = re.compile(r"\s{2,}")


class EmptyTextError(ValueError):
    """Nothing is left of a text: after cleaning, or after tokenising."""


def clean_caption(text: str, max_words: int) -> str:
    """A caption as the model reads it: lower case, without punctuation, at most `max_words` words.

    Raises EmptyTextError when nothing is left.
    """
    text = text.lower().translate(_TO_SPACE).replace("<person>", "person")
    text = _WHITE_RUN.sub(" ", text).rstrip("\n").strip(" ")
    words = text.split(" ")
    if len(words) > max_words:
        text = " ".join(words[:max_words])
    if not is_visible(text):
        raise EmptyTextError("the caption is empty after cleaning")
    return text


def is_visible(text: str) -> bool:
    """Whether a text has anything but spaces, control characters and marks without width: a tokenizer sees no other."""
    return any(character.isprintable() and not character.isspace() for character in text)


def clean_question(text: str, max_words: int) -> str:
    """A question as the model reads it; may be empty.

    Published questions keep runs of spaces, leading spaces and a trailing newline; a run of n spaces counts as n - 1
    empty words against `max_words`.
    """
    text = text.lower().translate(_TO_SPACE).rstrip(" ")
    words = text.split(" ")
    return " ".join(words[:max_words]) if len(words) > max_words else text
