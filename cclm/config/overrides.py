"""Overrides of the command line: `key.sub=value`, whose value is YAML."""

from __future__ import annotations

from typing import Any

from cclm.config.messages import shown
from cclm.config.tree import SettingsTree
from cclm.config.yaml_text import parse_yaml
from cclm.errors import UserError


def apply_override(tree: SettingsTree, override: str) -> None:
    """Set the setting that `override` names. Blocks that are missing on the way to it are made.

    Raises:
        UserError: not of the form `key.sub=value`, a value that is not YAML, or a key below a plain value.
    """
    key_text, equals, text = override.partition("=")
    keys = tuple(key_text.strip().split("."))
    if not equals or not all(keys):
        raise UserError(f"{override!r} is not an override; write key.sub=value, for example optimizer.lr=1e-4")
    origin = f"command line ({override})"
    parsed = parse_yaml(f"value: {text}" if text.strip() else "value: ''", origin).values
    if set(parsed) != {"value"}:
        raise UserError(f"{origin}: {text!r} is not one value; put it in quotes")
    above: Any = tree.values
    for depth, key in enumerate(keys[:-1]):
        above = above.get(key)
        if above is None:
            break
        if not isinstance(above, dict):
            raise UserError(
                f"{origin}: {'.'.join(keys[: depth + 1])} is {shown(above)} and has no settings below it; "
                f"set {'.'.join(keys[: depth + 1])} itself"
            )
    layer: Any = parsed["value"]
    for key in reversed(keys):
        layer = {key: layer}
    tree.merge(SettingsTree(layer, {(): tree.origin(()), **{keys[: n + 1]: origin for n in range(len(keys))}}))
