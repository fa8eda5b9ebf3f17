"""A component as TorchX wants it: a function whose signature and docstring name every argument."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Optional, TypeVar

from torchx.specs import AppDef
from torchx.specs.finder import ComponentValidationException

from cclm.components.arguments import Help, Overrides
from cclm.errors import UserError

Options = TypeVar("Options", bound=Overrides)

_OVERRIDES = "settings to change, if any, as key.sub=value, for example optimizer.lr=1e-4; they come last"


def component(function: Callable[[Options], AppDef]) -> Callable[..., AppDef]:
    """Make a component of a function that takes one object with all arguments.

    The result takes `key=value` settings by position and each argument by name. TorchX makes options of its signature,
    and `--help` of its docstring, to which the help of each argument is added.

    Raises:
        ComponentValidationException: (of the result) an argument cannot be used. `torchx` prints the sentence, without
            a traceback, and ends with 1.
    """
    options_class: type[Options] = typing.get_type_hints(function)["options"]
    arguments = _arguments_of(options_class)
    default_name = "cclm-" + function.__name__.replace("_", "-")

    @functools.wraps(function)
    def build(*overrides: str, **given: Any) -> AppDef:
        bound = signature.bind(*overrides, **given)
        try:
            values = {name: _value(name, arguments[name], value) for name, value in bound.kwargs.items()}
            values = {name: value for name, value in values.items() if value is not None}
            values.setdefault("name", default_name)
            return function(options_class(overrides=_checked(overrides), task=function.__name__, **values))
        except UserError as error:
            raise ComponentValidationException(str(error)) from None

    signature = inspect.Signature(
        [
            inspect.Parameter("overrides", inspect.Parameter.VAR_POSITIONAL, annotation=str),
            *(_parameter(name, argument, default_name) for name, argument in arguments.items()),
        ],
        return_annotation=AppDef,
    )
    build.__signature__ = signature  # type: ignore[attr-defined]  # inspect reads it, functions do not declare it
    listed = [f"    overrides: {_OVERRIDES}", *(f"    {name}: {each.text}" for name, each in arguments.items())]
    build.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Args:", *listed])
    return build


def _arguments_of(options: type[Overrides]) -> dict[str, Help]:
    """The arguments by name: those of the class itself before those of its bases, required ones first."""
    declared = {each.name: each.metadata["help"] for each in fields(options) if "help" in each.metadata}
    names = [name for each in options.__mro__ for name in vars(each).get("__annotations__", {}) if name in declared]
    return dict(sorted(((name, declared[name]) for name in names), key=lambda each: not each[1].is_required))


def _parameter(name: str, argument: Help, default_name: str) -> inspect.Parameter:
    """TorchX reads ints by itself; every other argument is a text for it, which `Help.parse` reads."""
    is_int = isinstance(argument.default, int)
    # This is the form of optional types that TorchX knows.
    annotation: Any = int if is_int else str if argument.default is not None or argument.is_required else Optional[str]  # noqa: UP045
    default: Any = inspect.Parameter.empty if argument.is_required else argument.default
    if name == "name":
        annotation, default = str, default_name
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _value(name: str, argument: Help, value: object) -> object:
    """What the program uses for what was given. Raises UserError if it cannot be used."""
    if isinstance(value, str) and not value:
        if argument.is_required:
            raise UserError(f"--{name} is empty; give a value")
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value
    return argument.parse(name, str(value))


def _checked(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """The settings. Raises UserError if one of them is none."""
    for override in overrides:
        if override.startswith("-"):
            raise UserError(f"{override} comes after a setting; give options first, and settings as key=value last")
        if "=" not in override:
            raise UserError(f"{override} is neither an option nor a setting; give settings as key=value")
    return overrides
