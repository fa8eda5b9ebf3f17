"""Reading a mapping that others defined: typed questions, and an error for every key that nobody asked about."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from cclm.errors import UserError

Where = Callable[[tuple[str, ...]], str]
"""Key path in a file -> "file:line" for messages."""
Tree = dict[str, Any]


class Block:
    """A published mapping that remembers what was asked of it."""

    def __init__(self, values: Mapping[str, Any], where: Where, path: tuple[str, ...] = ()) -> None:
        self.values, self.where, self.path = values, where, path
        self.asked: set[str] = set()
        self.blocks: dict[str, Block] = {}

    def fail(self, key: str, message: str) -> UserError:
        path = (*self.path, key)
        return UserError(f"{self.where(path)}: {'.'.join(path)} {message}")

    def has(self, key: str) -> bool:
        self.asked.add(key)
        return self.values.get(key) is not None

    def block(self, key: str) -> Block:
        """A mapping inside this one; an absent one reads as empty."""
        values = self.values.get(key) if self.has(key) else {}
        if not isinstance(values, Mapping):
            raise self.fail(key, f"must be a block of `key: value` lines, but it is {values!r}")
        return self.blocks.setdefault(key, Block(values, self.where, (*self.path, key)))

    def number(self, key: str, default: float | None = None) -> float:
        """A number; the released files write `1e-4`, which YAML 1.1 reads as text."""
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
        number = self.number(key, default)
        if not number.is_integer():
            raise self.fail(key, f"must be a whole number, but it is {self.values[key]!r}")
        return int(number)

    def whole_numbers(self, key: str) -> list[int]:
        value = self.values.get(key) if self.has(key) else None
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise self.fail(key, f"must be a list of whole numbers, but it is {value!r}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key) if self.has(key) else default
        if not isinstance(value, bool):
            raise self.fail(key, f"must be true or false, but it is {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key) if self.has(key) else default
        if not isinstance(value, str):
            raise self.fail(key, "is missing; add it" if value is None else f"must be text, but it is {value!r}")
        return value

    def files(self, key: str) -> list[str]:
        """A list of names; one name alone is a list of one."""
        value = self.values.get(key) if self.has(key) else []
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.fail(key, f"must be a list of files, but it is {value!r}")
        return names

    def refuse(self, key: str, accepted: Any, reason: str) -> None:
        """A key with only one value that can be built."""
        if self.has(key) and self.values[key] != accepted:
            raise self.fail(key, f"is {self.values[key]!r}, but {reason}; set it to {accepted!r}")

    def finish(self, ignored: Collection[str]) -> None:
        """Raise for the first key, here or in the blocks inside, that nobody asked for and `ignored` does not name."""
        prefix = ".".join(self.path)
        known = self.asked | {key.rpartition(".")[2] for key in ignored if key.rpartition(".")[0] == prefix}
        for key in self.values:
            if key not in known:
                guess = difflib.get_close_matches(key, known, n=1)
                advice = f"did you mean {guess[0]}?" if guess else f"known here are {', '.join(sorted(known))}"
                raise self.fail(key, f"is not a published setting; {advice}")
        for block in self.blocks.values():
            block.finish(ignored)


def read_json(file: Path) -> Tree:
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
