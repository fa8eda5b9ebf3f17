"""Errors of pydantic, told as sentences: which setting, written where, what is wrong with it, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import ValidationError

from cclm.config.base import Settings
from cclm.config.messages import dotted, nearest, shown
from cclm.config.tree import KeyPath, SettingsTree

_MAX_SENTENCES = 8


class _Limit(NamedTuple):
    words: str
    key: str
    """Key of the limit in pydantic's error context."""


_LIMITS = {
    "greater_than": _Limit("greater than", "gt"),
    "greater_than_equal": _Limit("at least", "ge"),
    "less_than": _Limit("less than", "lt"),
    "less_than_equal": _Limit("at most", "le"),
}
"""Pydantic's error type -> how a sentence says it."""

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a block of `key: value` lines",
    "model": "a block of `key: value` lines",
}
"""Pydantic's error type without its ending -> what the value must be."""


def explain(error: ValidationError, schema: type[Settings], tree: SettingsTree) -> str:
    """One line for each thing that is wrong, at most eight of them.

    Args:
        schema: what the settings were validated against; its keys are what a typo may have meant.
        tree: the settings, with the places where they were written.
    """
    errors = error.errors(include_url=False)
    # pydantic leaves a wrong entry out and then finds the list too short. Only the entry is wrong.
    lists_with_wrong_entries = {item["loc"][:-1] for item in errors}
    errors = [item for item in errors if item["type"] != "too_short" or item["loc"] not in lists_with_wrong_entries]
    # A typo shows up twice, as an unknown key and as a missing one. The unknown key goes first: it has a line.
    errors.sort(key=lambda item: item["type"] != "extra_forbidden")
    sentences = []
    for item in errors[:_MAX_SENTENCES]:
        path = tuple(str(part) for part in item["loc"])
        origin = tree.origin(path[:-1]) if item["type"] == "missing" else tree.origin_of_block(path)
        sentences.append(f"{origin}: {_sentence(item, schema)}")
    if len(errors) > _MAX_SENTENCES:
        sentences.append(f"... and {len(errors) - _MAX_SENTENCES} more")
    return "\n".join(sentences)


def _sentence(item: Mapping[str, Any], schema: type[Settings]) -> str:
    loc, kind, given = item["loc"], item["type"], shown(item["input"])
    name, context = dotted(loc), item.get("ctx", {})
    stem = re.sub(r"_(type|parsing|from_float)$", "", kind)
    if kind == "extra_forbidden":
        return f"{name} is not a known setting; {_suggest(loc, schema)}"
    if kind == "missing":
        return f"{name} is missing; add it"
    if kind == "value_error":
        message = str(context.get("error", item["msg"]))
        return f"{name}: {message}" if name else message
    if kind in _LIMITS:
        limit = _LIMITS[kind]
        return f"{name} must be {limit.words} {context[limit.key]}, but it is {given}"
    if kind == "literal_error":
        guess = nearest(str(item["input"]), re.findall(r"'([^']*)'", context["expected"]))
        advice = f"; did you mean {guess}?" if guess else ""
        return f"{name} must be {context['expected']}, but it is {given}{advice}"
    if kind == "too_short":
        return f"{name} needs at least {context['min_length']} entry, but has {context['actual_length']}; add one"
    if kind == "too_long":
        return f"{name} takes {context['max_length']} entries, but has {context['actual_length']}; remove the others"
    if stem in _EXPECTED:
        return f"{name} must be {_EXPECTED[stem]}, but it is {given}"
    return f"{name}: {item['msg']} (it is {given})"


def _suggest(loc: Sequence[str | int], schema: type[Settings]) -> str:
    """The setting that an unknown key was probably meant to be: in its own block first, then anywhere."""
    block, key = tuple(str(part) for part in loc[:-1]), str(loc[-1])
    keys = list(_known_keys(schema, ()))
    siblings = {path[-1]: path for path in keys if path[:-1] == block}
    guess = nearest(key, list(siblings))
    if guess:
        return f"did you mean {'.'.join(siblings[guess])}?"
    elsewhere = [path for path in keys if path[-1] == key]
    if elsewhere:
        return f"did you mean {' or '.join('.'.join(path) for path in elsewhere[:3])}?"
    anywhere = {path[-1]: path for path in reversed(keys)}
    guess = nearest(key, list(anywhere))
    there = f"{dotted(loc[:-1])} takes" if block else "known here are"
    return (f"the nearest is {'.'.join(anywhere[guess])}; " if guess else "") + f"{there} {', '.join(siblings)}"


def _known_keys(schema: type[Settings], path: KeyPath) -> Iterator[KeyPath]:
    """Key paths of all settings and blocks of `schema`, which itself is at `path`."""
    for name, info in schema.model_fields.items():
        yield (*path, name)
        block = _block_of(info.annotation)
        if block is not None:
            yield from _known_keys(block, (*path, name))


def _block_of(annotation: Any) -> type[Settings] | None:
    """The block of settings inside a field's annotation; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return next((block for part in get_args(annotation) if (block := _block_of(part))), None)
    return None
