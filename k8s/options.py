"""Run options of a TorchX scheduler, made from the fields of a dataclass, and read with one sentence for each mistake.

TorchX 0.7 itself drops options that it does not know, takes every boolean but `true` as false, and answers other
mistakes with a traceback.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Dict, List  # noqa: UP035  torchx knows lists and dicts by these names only

from cclm.errors import UserError

if TYPE_CHECKING:
    from torchx.specs import runopts

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def option(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    """A field of a dataclass that is a run option.

    Args:
        default: its value where it is not given; None if there is none, a tuple for a list, a dict for pairs.
        text: its help, one sentence or two.
        choices: the values that it may have; empty if it may have any.
    """
    metadata = {"help": text, "choices": choices}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Option:
    """What is known of one run option."""

    name: str
    kind: type
    """str, int, bool, tuple (of str) or dict (of str to str)."""
    default: Any
    text: str
    choices: tuple[str, ...]

    @property
    def torchx_type(self) -> Any:
        """The type by which TorchX knows it."""
        known: dict[type, Any] = {tuple: List[str], dict: Dict[str, str]}  # noqa: UP006
        return known.get(self.kind, self.kind)

    @property
    def form(self) -> str:
        """How its values are written, for people."""
        if self.choices:
            return " \\| ".join(self.choices)
        return {str: "text", int: "number", bool: "true \\| false", tuple: "A;B", dict: "KEY:VALUE;..."}[self.kind]


def options_of(cls: type) -> dict[str, Option]:
    """The run options among the fields of a dataclass, by name."""
    hints = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        if "help" in field.metadata:
            default = field.default if field.default is not dataclasses.MISSING else {}
            found[field.name] = Option(
                field.name, _kind(hints[field.name]), default, field.metadata["help"], field.metadata["choices"]
            )
    return found


def _kind(hint: Any) -> type:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    origin = typing.get_origin(hint) or hint
    return dict if origin is Mapping else next(kind for kind in (str, int, bool, tuple) if origin is kind)


def torchx_options(options: Mapping[str, Option]) -> runopts:
    """The same options as TorchX takes them, with a parser that refuses what it cannot use."""
    from torchx.specs import runopts

    class RunOptions(runopts):  # type: ignore[misc]  # torchx has no type information
        """TorchX's run options; those of the command line are read strictly."""

        def cfg_from_str(self, cfg_str: str) -> dict[str, Any]:
            """Values of `-cfg`, as key=value,key=value. Raises UserError for a key or value that cannot be used."""
            return {name: of_torchx(value) for name, value in read(options, pairs_of(cfg_str)).items()}

    made = RunOptions()
    for item in options.values():
        default = None if item.default in ((), {}) else of_torchx(item.default)
        made.add(item.name, type_=item.torchx_type, default=default, help=_help(item))
    return made


def of_torchx(value: Any) -> Any:
    """A value in the types that TorchX knows."""
    return list(value) if isinstance(value, tuple) else value


def _help(item: Option) -> str:
    return f"{item.text} ({', '.join(item.choices)})" if item.choices else item.text


def pairs_of(text: str) -> dict[str, str]:
    """What `-cfg` was given, by key; values as written. Raises UserError."""
    from torchx.util.types import to_dict

    try:
        return dict(to_dict(text))
    except ValueError:
        raise UserError(
            f"run options '{text}': write them as key=value,key=value; a value cannot hold =, lists are a;b and "
            "pairs key:value;key:value"
        ) from None


def read(options: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Run options in the types of their fields. Those that are None are left out.

    Raises:
        UserError: an option that does not exist, or a value that it cannot have.
    """
    values = {}
    for name, value in given.items():
        item = options.get(name)
        if item is None:
            near = difflib.get_close_matches(name, options, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"there is no run option {name}{hint} (all: torchx runopts kubernetes)")
        if value is not None:
            values[name] = _read_value(item, value)
    return values


def _read_value(item: Option, value: Any) -> Any:
    """A value in the type of its field."""
    if item.kind is tuple:
        parts = value.replace(",", ";").split(";") if isinstance(value, str) else value
        return tuple(str(part).strip() for part in parts if str(part).strip())
    if item.kind is dict:
        return _read_pairs(item, value)
    if item.kind is bool:
        return value if isinstance(value, bool) else _read_bool(item, str(value))
    if item.kind is int:
        if isinstance(value, bool) or not str(value).strip().lstrip("-").isdecimal():
            raise UserError(f"run option {item.name}={value}: not a whole number")
        return int(value)
    text = str(value)
    if "," in text or ";" in text:
        raise UserError(f"run option {item.name}={text}: a value cannot hold , or ; (options: key=value,key=value)")
    if item.choices and text not in item.choices:
        raise UserError(f"run option {item.name}={text}: write {' or '.join(item.choices)}")
    return text


def _read_bool(item: Option, text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise UserError(f"run option {item.name}={text}: write true or false")


def _read_pairs(item: Option, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(key): str(text) for key, text in value.items()}
    pairs = {}
    for part in str(value).replace(",", ";").split(";"):
        if not part.strip():
            continue
        key, colon, text = part.strip().partition(":")
        if not colon:
            raise UserError(
                f"run option {item.name}: {part} is not KEY:VALUE; several are KEY:VALUE;KEY:VALUE, and a value "
                "cannot hold , or ;"
            )
        pairs[key] = text
    return pairs
