"""Parts of the sentences that tell a user what is wrong with a setting."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

_LONGEST_VALUE = 60
"""Characters of a value that a message shows."""


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that `word` was probably meant to be; None if none is similar. Case does not count."""
    lowered = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[matches[0]] if matches else None


def dotted(path: Sequence[str | int]) -> str:
    """A key path as users write it: ("data", "files", 0) -> `data.files[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def shown(value: Any) -> str:
    """A value as a message shows it: JSON, shortened where it is long."""
    if isinstance(value, dict):
        return "a block of settings"
    text = "empty" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
