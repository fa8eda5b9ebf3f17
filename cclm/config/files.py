"""Config files become typed settings: YAML, `base:` files, `key.sub=value` overrides, and errors in plain sentences.

A published file (recognised by its keys) goes through `config_published.translate` first, so everything from there on -
overrides, bases, messages - speaks of our keys.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from cclm.config.base import Settings
from cclm.config.finetune import FINETUNE_CONFIGS, FinetuneConfig
from cclm.config.pretrain import PretrainConfig
from cclm.config.published import is_published, translate
from cclm.errors import UserError

KeyPath = tuple[str, ...]

CONFIGS: dict[str, type[PretrainConfig] | type[FinetuneConfig]] = {"pretrain": PretrainConfig, **FINETUNE_CONFIGS}
"""What `task:` may say."""

_SHOWN_ERRORS = 8


@dataclass
class _Tree:
    """Plain settings and, for messages, the place that each key was written at ("file:line")."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> str:
        while path not in self.origins and path:
            path = path[:-1]
        return self.origins.get(path, "config")

    def merge(self, other: _Tree) -> None:
        """Lay `other` over this: mappings merge, everything else replaces."""
        self._merge(self.values, other.values, (), other)
        self.origins[()] = other.origin(())

    def _merge(self, mine: dict[str, Any], theirs: Mapping[str, Any], path: KeyPath, other: _Tree) -> None:
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


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: `1e-4` is a number; `no` is a language, not false."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """`1e4` is a whole number: no point, nothing behind it."""
        number = self.construct_yaml_float(node)
        return int(number) if "." not in node.value and number.is_integer() else number


class _Dumper(yaml.SafeDumper):
    """Quotes whatever _Loader or a YAML 1.1 reader would take for something else than text."""


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _regexp = re.compile(f"^(?:{_pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _regexp, _first)
    if _tag == "float":
        _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _regexp, _first)

_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)


def load_config(
    path: str | Path, overrides: Sequence[str] = (), *, processes: int = 1
) -> PretrainConfig | FinetuneConfig:
    """Read a config file of ours or a published one.

    Args:
        path: YAML file. Its `base:` names a file, or a list of files, that it is laid over (relative to itself).
        overrides: `key.sub=value` in our keys; the value is YAML.
        processes: training processes of the run; published batch sizes are per process, ours are global.

    Raises:
        UserError: one sentence for each thing that is wrong: where, what, and what to do.
    """
    path = Path(path)
    tree = _read_with_bases(path, processes, ())
    if not tree.values:
        raise UserError(f"{path}: the file is empty; name a base, or write at least model and data")
    for override in overrides:
        _apply_override(tree, override)
    schema = _schema_of(tree)
    try:
        # Strict: "yes" is no number and true is no 1. JSON, because strict Python input would refuse lists for tuples.
        return schema.model_validate_json(json.dumps(tree.values, default=str), strict=True)
    except ValidationError as error:
        raise UserError(_explain(error, schema, tree)) from None


def shipped_configs() -> Path:
    """The folder of config files that come with this project. Raises UserError where it was installed without them."""
    folder = Path(__file__).resolve().parents[2] / "configs"
    if not (folder / "model").is_dir():
        raise UserError(f"no config files beside {folder.parent}; run in a clone, or name your own with --config")
    return folder


def to_yaml(config: Settings) -> str:
    """The config with all its defaults; `load_config` reads it back to an equal one."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that `word` was probably meant to be."""
    lowered = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


# ---------------------------------------------------------------------------------------------------------- reading


def _read_with_bases(path: Path, processes: int, chain: tuple[Path, ...]) -> _Tree:
    resolved = path.resolve()
    if resolved in chain:
        circle = " -> ".join(step.name for step in (*chain[chain.index(resolved) :], resolved))
        raise UserError(f"{path}: base files name each other in a circle ({circle}); remove one of these bases")
    own = _read_file(path, processes)
    bases = own.values.pop("base", None)
    if bases is None:
        return own
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{own.origin(('base',))}: base must be a file or a list of files, but it is {_shown(bases)}")
    merged = _Tree()
    for base in bases:
        base_path = _shortened(path.parent / base)
        if not base_path.is_file():
            raise UserError(f"{own.origin(('base',))}: {_missing_file(base_path, 'base')}")
        merged.merge(_read_with_bases(base_path, processes, (*chain, resolved)))
    merged.merge(own)
    return merged


def _shortened(path: Path) -> Path:
    """Without `..`, where that names the same file (it need not, across links)."""
    short = Path(os.path.normpath(path))
    return short if short.exists() and path.exists() and short.samefile(path) else path


def _read_file(path: Path, processes: int) -> _Tree:
    if not path.is_file():
        raise UserError(_missing_file(path, "config"))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the file cannot be read as text ({error}); give a YAML file") from None
    tree = _parse(text, str(path))
    if is_published(tree.values):
        tree.values = translate(tree.values, path, processes=processes, where=tree.origin)
        tree.origins = {(): str(path)}
    return tree


def _missing_file(path: Path, kind: str) -> str:
    if path.is_dir():
        return f"{kind} {path} is a folder; name a YAML file in it"
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    guess = nearest(path.name, beside)
    return f"no {kind} file {path}; " + (f"did you mean {path.parent / guess}?" if guess else "check the path")


def _parse(text: str, name: str) -> _Tree:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return _Tree({}, {(): name})
        _refuse_duplicates(node, name, ())
        values = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{place}: this is not YAML ({problem}); mend the line") from None
    except (ValueError, RecursionError) as error:  # values that no number or tree can hold
        raise UserError(f"{name}: a value cannot be read ({error}); mend it") from None
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise UserError(f"{name}: expected `key: value` lines, found {_shown(values)}")
    return _Tree(values, {(): name, **dict(_origins(node, name, ()))})


def _refuse_duplicates(node: yaml.Node, name: str, parents: tuple[yaml.Node, ...]) -> None:
    if node in parents:
        raise UserError(f"{name}:{node.start_mark.line + 1}: an alias contains itself; write the value out")
    parents = (*parents, node)
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, name, parents)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            shown = key.value if isinstance(key, yaml.ScalarNode) else "this key"
            raise UserError(f"{name}:{line}: a key must be text, and {shown!r} is not; put it in quotes")
        if key.value in lines:
            raise UserError(
                f"{name}:{line}: {key.value} is already given in line {lines[key.value]} of the same block; keep one"
            )
        lines[key.value] = line
        _refuse_duplicates(value, name, parents)


def _origins(node: yaml.Node, name: str, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            yield here, f"{name}:{key.start_mark.line + 1}"
            yield from _origins(value, name, here)


def _apply_override(tree: _Tree, override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not equals or not all(keys):
        raise UserError(f"{override!r} is not an override; write key.sub=value, for example optimizer.lr=1e-4")
    origin = f"command line ({override})"
    value = _parse(f"value: {text}" if text.strip() else "value: ''", origin).values
    if set(value) != {"value"}:
        raise UserError(f"{origin}: {text!r} is not one value; put it in quotes")
    above: Any = tree.values
    for depth, key in enumerate(keys[:-1]):
        above = above.get(key)
        if above is None:
            break
        if not isinstance(above, dict):
            raise UserError(
                f"{origin}: {'.'.join(keys[: depth + 1])} is {_shown(above)} and has no settings below it; "
                f"set {'.'.join(keys[: depth + 1])} itself"
            )
    layer: Any = value["value"]
    for key in reversed(keys):
        layer = {key: layer}
    tree.merge(_Tree(layer, {(): tree.origin(()), **{keys[: n + 1]: origin for n in range(len(keys))}}))


# -------------------------------------------------------------------------------------------------------- sentences


def _schema_of(tree: _Tree) -> type[PretrainConfig] | type[FinetuneConfig]:
    task = tree.values.get("task", "pretrain")
    if isinstance(task, str) and task in CONFIGS:
        return CONFIGS[task]
    guess = nearest(str(task), list(CONFIGS))
    advice = f"did you mean {guess}?" if guess else f"give one of {', '.join(CONFIGS)}"
    raise UserError(f"{tree.origin(('task',))}: task is {_shown(task)}, which is no known task; {advice}")


def _explain(error: ValidationError, schema: type[Settings], tree: _Tree) -> str:
    errors = error.errors(include_url=False)
    # pydantic leaves a wrong entry out and then finds the list too short: the entry is what is wrong.
    entries = {item["loc"][:-1] for item in errors}
    errors = [item for item in errors if item["type"] != "too_short" or item["loc"] not in entries]
    # A typo shows up twice, as an unknown key and as a missing one: the unknown key, which has a line, goes first.
    errors.sort(key=lambda item: item["type"] != "extra_forbidden")
    sentences = []
    for item in errors[:_SHOWN_ERRORS]:
        path = tuple(str(part) for part in item["loc"])
        origin = tree.origin(path[:-1]) if item["type"] == "missing" else _origin_of_block(tree, path)
        sentences.append(f"{origin}: {_sentence(item, schema)}")
    if len(errors) > _SHOWN_ERRORS:
        sentences.append(f"... and {len(errors) - _SHOWN_ERRORS} more")
    return "\n".join(sentences)


def _origin_of_block(tree: _Tree, path: KeyPath) -> str:
    """Where a setting was written; for a block whose settings disagree, the override among them."""
    inside = [origin for known, origin in tree.origins.items() if known[: len(path)] == path]
    return next((origin for origin in inside if origin.startswith("command line")), tree.origin(path))


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

_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _sentence(item: Mapping[str, Any], schema: type[Settings]) -> str:
    loc, kind, given = item["loc"], item["type"], _shown(item["input"])
    name, context = _dotted(loc), item.get("ctx", {})
    stem = re.sub(r"_(type|parsing|from_float)$", "", kind)
    if kind == "extra_forbidden":
        return f"{name} is not a known setting; {_suggest(loc, schema)}"
    if kind == "missing":
        return f"{name} is missing; add it"
    if kind == "value_error":
        message = str(context.get("error", item["msg"]))
        return f"{name}: {message}" if name else message
    if kind in _LIMITS:
        words, limit = _LIMITS[kind]
        return f"{name} must be {words} {context[limit]}, but it is {given}"
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
    there = f"{_dotted(loc[:-1])} takes" if block else "known here are"
    return (f"the nearest is {'.'.join(anywhere[guess])}; " if guess else "") + f"{there} {', '.join(siblings)}"


def _known_keys(schema: type[Settings], path: KeyPath) -> Iterator[KeyPath]:
    for name, info in schema.model_fields.items():
        yield (*path, name)
        block = _block_of(info.annotation)
        if block is not None:
            yield from _known_keys(block, (*path, name))


def _block_of(annotation: Any) -> type[Settings] | None:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return next((block for part in get_args(annotation) if (block := _block_of(part))), None)
    return None


def _dotted(loc: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a block of settings"
    text = "empty" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
