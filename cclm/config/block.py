"""Reading a published file: a value of each expected type, and an error for every key that was never read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from cclm.config.tree import KeyPath
from cclm.errors import UserError

Where = Callable[[KeyPath], str]
"""Key path in a file -> "file:line" for messages."""

Values = dict[str, Any]
"""Settings under our keys, before they are validated."""


class Block:
    """A mapping of a published file that remembers which of its keys were read.

    The methods named after a type return the value of a key, or the default where the key is absent or null. They raise
    UserError, with file and line, where a value has another type or a key without a default is absent.
    """

    def __init__(self, values: Mapping[str, Any], where: Where, path: KeyPath = ()) -> None:
        """`path`: the keys that lead to this mapping in its file."""
        self.values, self.where, self.path = values, where, path
        self._keys_read: set[str] = set()
        self._blocks: dict[str, Block] = {}

    def fail(self, key: str, message: str) -> UserError:
        """Make the error: the place and the key, then the message."""
        path = (*self.path, key)
        return UserError(f"{self.where(path)}: {'.'.join(path)} {message}")

    def has(self, key: str) -> bool:
        """Whether the key has a value; the key counts as read."""
        self._keys_read.add(key)
        return self.values.get(key) is not None

    def block(self, key: str) -> Block:
        """A mapping inside this one; an absent one reads as empty."""
        values = self.values.get(key) if self.has(key) else {}
        if not isinstance(values, Mapping):
            raise self.fail(key, f"must be a block of `key: value` lines, but it is {values!r}")
        return self._blocks.setdefault(key, Block(values, self.where, (*self.path, key)))

    def number(self, key: str, default: float | None = None) -> float:
        """A number, also as text: the released files write `1e-4`, which is text in YAML 1.1."""
        value = self.values.get(key) if self.has(key) else default
        try:
            if value is None or isinstance(value, (bool, list, dict)):
                raise ValueError
            number = float(value)
        except ValueError:
            wrong = "is missing; add it" if value is None else f"must be a number, but it is {value!r}"
            raise self.fail(key, wrong) from None
        return number

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        number = self.number(key, default)
        if not number.is_integer():
            raise self.fail(key, f"must be a whole number, but it is {self.values[key]!r}")
        return int(number)

    def whole_numbers(self, key: str) -> list[int]:
        """A list of whole numbers."""
        value = self.values.get(key) if self.has(key) else None
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise self.fail(key, f"must be a list of whole numbers, but it is {value!r}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.values.get(key) if self.has(key) else default
        if not isinstance(value, bool):
            raise self.fail(key, f"must be true or false, but it is {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Text."""
        value = self.values.get(key) if self.has(key) else default
        if not isinstance(value, str):
            raise self.fail(key, "is missing; add it" if value is None else f"must be text, but it is {value!r}")
        return value

    def files(self, key: str) -> list[str]:
        """A list of names; one name alone is a list of one, and an absent key is an empty list."""
        value = self.values.get(key) if self.has(key) else []
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.fail(key, f"must be a list of files, but it is {value!r}")
        return names

    def refuse(self, key: str, accepted: Any, reason: str) -> None:
        """Raise if the key has another value than `accepted`, the only one that can be built."""
        if self.has(key) and self.values[key] != accepted:
            raise self.fail(key, f"is {self.values[key]!r}, but {reason}; set it to {accepted!r}")

    def finish(self, ignored: Collection[str]) -> None:
        """Raise for the first key, here or in the blocks inside, that was not read and is not in `ignored`.

        Args:
            ignored: dotted keys from the top of the file.
        """
        prefix = ".".join(self.path)
        known = self._keys_read | {key.rpartition(".")[2] for key in ignored if key.rpartition(".")[0] == prefix}
        for key in self.values:
            if key not in known:
                guess = difflib.get_close_matches(key, known, n=1)
                advice = f"did you mean {guess[0]}?" if guess else f"known here are {', '.join(sorted(known))}"
                raise self.fail(key, f"is not a published setting; {advice}")
        for block in self._blocks.values():
            block.finish(ignored)


def read_json(file: Path) -> Values:
    """A JSON object.

    Raises:
        UserError: unreadable, or not an object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: this is not readable JSON ({error}); fetch or mend the file") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected a JSON object of settings")
    return values
