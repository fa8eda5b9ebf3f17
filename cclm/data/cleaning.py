"""Text cleaning as published.

Cleaning decides which words a model sees. So it gives the same text as the published code, down to single spaces;
tests compare it with `tests/golden/extra.json`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_TO_SPACE = str.maketrans({character: " " for character in ",.'!?\"()*#:;~-/"})
_WHITE_RUN = re.compile(r"\s{2,}")
_SHOWN_WORDS = 4
_FIRST_WITHOUT_SPACES = "\u0e00"  # Thai; the scripts before it in Unicode put spaces between words


class EmptyTextError(ValueError):
    """A text is empty after cleaning, or after tokenising."""


def clean_caption(text: str, max_words: int) -> str:
    """A caption as the model reads it: lower case, without punctuation, at most `max_words` words.

    Raises EmptyTextError if no word is left.
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
    """Whether a tokenizer finds anything in a text: it ignores spaces, control characters and marks without width."""
    return any(character.isprintable() and not character.isspace() for character in text)


def clean_question(text: str, max_words: int) -> str:
    """A question as the model reads it. It may be empty.

    As in the published code, runs of spaces, leading spaces and a trailing newline are kept, and a run of n spaces
    counts as n - 1 empty words towards `max_words`.
    """
    text = text.lower().translate(_TO_SPACE).rstrip(" ")
    words = text.split(" ")
    return " ".join(words[:max_words]) if len(words) > max_words else text


def is_single_word(text: str) -> bool:
    """Whether a caption is one word. In scripts without spaces between words every caption looks so; this is False."""
    return len(text.split(maxsplit=1)) == 1 and max(text) < _FIRST_WITHOUT_SPACES


def first_words(words: Sequence[str]) -> str:
    """The first few of several words, for a message."""
    return ", ".join(words[:_SHOWN_WORDS]) + (", ..." if len(words) > _SHOWN_WORDS else "")
