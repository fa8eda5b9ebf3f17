"""Changes to a pod that no run option has: a YAML file that is merged into the pod's template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cclm.errors import UserError

_PARTS = ("metadata", "spec")


def read(path: str) -> dict[str, Any]:
    """The content of the run option `overlay`.

    Raises:
        UserError: the file cannot be read, or holds something else than parts of a pod.
    """
    try:
        content = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"run option overlay={path}: cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or not all(
        key in _PARTS and isinstance(value, dict) for key, value in content.items()
    ):
        raise UserError(f"run option overlay={path}: the file holds a mapping with {' and '.join(_PARTS)} of a pod")
    return content


def merge(base: Any, change: Any) -> Any:
    """`base` with the change in it.

    Mappings are merged, and null takes a key away. In lists, items with the same `name` are merged, and others are
    added. Everything else is replaced.
    """
    if isinstance(base, dict) and isinstance(change, dict):
        merged = dict(base)
        for key, value in change.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = merge(base[key], value) if key in base else value
        return merged
    if isinstance(base, list) and isinstance(change, list):
        return _merge_lists(base, change)
    return change


def _merge_lists(base: list[Any], change: list[Any]) -> list[Any]:
    merged = list(base)
    places = {item["name"]: place for place, item in enumerate(base) if isinstance(item, dict) and "name" in item}
    for item in change:
        place = places.get(item.get("name")) if isinstance(item, dict) else None
        if place is None:
            merged.append(item)
        else:
            merged[place] = merge(merged[place], item)
    return merged
