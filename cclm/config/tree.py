"""Settings before they are validated: plain values, each with the place where it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KeyPath = tuple[str, ...]
"""Keys from the top of a file down to a setting; () is the whole file."""


@dataclass
class SettingsTree:
    """Plain values and, for messages, their origins: "file:line", or the override on the command line."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        """Where the setting was written. A setting that was written nowhere has the origin of the block around it."""
        while path not in self.origins and path:
            path = path[:-1]
        return self.origins.get(path, "config")

    def origin_of_block(self, path: KeyPath) -> str:
        """As `origin`. If an override changed the block, the override is returned.

        Where settings of one block contradict each other, the override is what the user has just written.
        """
        inside = [origin for known, origin in self.origins.items() if known[: len(path)] == path]
        return next((origin for origin in inside if origin.startswith("command line")), self.origin(path))

    def merge(self, other: SettingsTree) -> None:
        """Lay `other` over this tree: mappings merge, everything else is replaced."""
        self._merge(self.values, other.values, (), other)
        self.origins[()] = other.origin(())

    def _merge(self, mine: dict[str, Any], theirs: Mapping[str, Any], path: KeyPath, other: SettingsTree) -> None:
        for key, value in theirs.items():
            here = (*path, key)
            if isinstance(value, dict) and isinstance(mine.get(key), dict):
                self._merge(mine[key], value, here, other)
                continue
            for stale in [known for known in self.origins if known[: len(here)] == here]:
                del self.origins[stale]
            mine[key] = value
            for known, origin in other.origins.items():
                if known[: len(here)] == here:
                    self.origins[known] = origin
