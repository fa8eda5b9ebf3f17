"""YAML text to a tree of settings with line numbers, and settings back to YAML.

Plain values are those of YAML 1.2: `1e-4` is a number, and `no` is text (the code of Norwegian), not false.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from cclm.config.messages import shown
from cclm.config.tree import KeyPath, SettingsTree
from cclm.errors import UserError


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2's plain values."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number; without a point and without a fraction it is a whole one, as `1e4`."""
        number: float = self.construct_yaml_float(node)
        return int(number) if "." not in node.value and number.is_integer() else number


class _Dumper(yaml.SafeDumper):
    """Quotes every text that _Loader or a reader of YAML 1.1 would take for something else."""


class _PlainValue(NamedTuple):
    """A type that a value without quotes can have."""

    type: str
    pattern: str
    """Regular expression of the whole value."""
    first_characters: list[str]


for _plain in (
    _PlainValue("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    _PlainValue("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    _PlainValue("int", r"[-+]?(0|[1-9][0-9_]*)", list("-+0123456789")),
    _PlainValue("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    _PlainValue("merge", r"<<", ["<"]),
):
    _tag, _regexp = f"tag:yaml.org,2002:{_plain.type}", re.compile(f"^(?:{_plain.pattern})$")
    _Loader.add_implicit_resolver(_tag, _regexp, _plain.first_characters)
    if _plain.type == "float":
        _Dumper.add_implicit_resolver(_tag, _regexp, _plain.first_characters)

_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)


def parse_yaml(text: str, name: str) -> SettingsTree:
    """Read `key: value` lines; empty text gives an empty tree.

    Args:
        name: what messages call the text: a file, or the command line.

    Raises:
        UserError: no YAML, no mapping, a key twice or not text, or an alias that contains itself.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return SettingsTree({}, {(): name})
        _check_keys(node, name, ())
        values = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{place}: this is not YAML ({problem}); mend the line") from None
    except (ValueError, RecursionError) as error:  # a number with too many digits, or blocks nested too deeply
        raise UserError(f"{name}: a value cannot be read ({error}); mend it") from None
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise UserError(f"{name}: expected `key: value` lines, found {shown(values)}")
    return SettingsTree(values, {(): name, **dict(_origins(node, name, ()))})


def dump_yaml(values: dict[str, Any]) -> str:
    """YAML that `parse_yaml` reads back to equal values."""
    text: str = yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
    return text


def _check_keys(node: yaml.Node, name: str, parents: tuple[yaml.Node, ...]) -> None:
    """Raise for keys that PyYAML would take silently: the same one twice, or one that is not text."""
    if node in parents:
        raise UserError(f"{name}:{node.start_mark.line + 1}: an alias contains itself; write the value out")
    parents = (*parents, node)
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item, name, parents)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            key_text = key.value if isinstance(key, yaml.ScalarNode) else "this key"
            raise UserError(f"{name}:{line}: a key must be text, and {key_text!r} is not; put it in quotes")
        if key.value in lines:
            raise UserError(
                f"{name}:{line}: {key.value} is already given in line {lines[key.value]} of the same block; keep one"
            )
        lines[key.value] = line
        _check_keys(value, name, parents)


def _origins(node: yaml.Node, name: str, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """(key path, "name:line") of every key below `node`."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            yield here, f"{name}:{key.start_mark.line + 1}"
            yield from _origins(value, name, here)
