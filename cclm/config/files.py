"""Config files become typed settings.

A file is YAML. It may be laid over others (`base:`), and the command line may override single settings. A published
file, recognised by its keys, is translated first (`published.py`). Bases, overrides and messages therefore always speak
of our keys.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from cclm.config.base import Settings
from cclm.config.explain import explain
from cclm.config.finetune import FINETUNE_CONFIGS, FinetuneConfig
from cclm.config.messages import nearest, shown
from cclm.config.overrides import apply_override
from cclm.config.paths import expand_home
from cclm.config.pretrain import PretrainConfig
from cclm.config.published import translate
from cclm.config.published_keys import is_published
from cclm.config.tree import SettingsTree
from cclm.config.yaml_text import dump_yaml, parse_yaml
from cclm.errors import UserError

CONFIGS: dict[str, type[PretrainConfig] | type[FinetuneConfig]] = {"pretrain": PretrainConfig, **FINETUNE_CONFIGS}
"""Value of `task:` -> its settings."""


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
    path = Path(expand_home(str(path)))
    tree = _read_with_bases(path, processes, ())
    if not tree.values:
        raise UserError(f"{path}: the file is empty; name a base, or write at least model and data")
    for override in overrides:
        apply_override(tree, override)
    schema = _schema_of(tree)
    try:
        # Strict: "yes" is no number, and true is no 1. By way of JSON, since strict Python input refuses a list where
        # a tuple is expected.
        return schema.model_validate_json(json.dumps(tree.values, default=str), strict=True)
    except ValidationError as error:
        raise UserError(explain(error, schema, tree)) from None


def shipped_configs() -> Path:
    """The folder of config files that come with this project. Raises UserError where it was installed without them."""
    folder = Path(__file__).resolve().parents[2] / "configs"
    if not (folder / "model").is_dir():
        raise UserError(f"no config files beside {folder.parent}; run in a clone, or name your own with --config")
    return folder


def to_yaml(config: Settings) -> str:
    """The config with all its defaults; `load_config` reads it back to an equal one."""
    return dump_yaml(config.model_dump(mode="json"))


def _schema_of(tree: SettingsTree) -> type[PretrainConfig] | type[FinetuneConfig]:
    task = tree.values.get("task", "pretrain")
    if isinstance(task, str) and task in CONFIGS:
        return CONFIGS[task]
    guess = nearest(str(task), list(CONFIGS))
    advice = f"did you mean {guess}?" if guess else f"give one of {', '.join(CONFIGS)}"
    raise UserError(f"{tree.origin(('task',))}: task is {shown(task)}, which is no known task; {advice}")


def _read_with_bases(path: Path, processes: int, chain: tuple[Path, ...]) -> SettingsTree:
    """The file laid over its bases. `chain`: the files that led here, each a base of the one before."""
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
        raise UserError(f"{own.origin(('base',))}: base must be a file or a list of files, but it is {shown(bases)}")
    merged = SettingsTree()
    for base in bases:
        base_path = _without_dots(path.parent / expand_home(base))
        if not base_path.is_file():
            raise UserError(f"{own.origin(('base',))}: {_missing_file(base_path, 'base')}")
        merged.merge(_read_with_bases(base_path, processes, (*chain, resolved)))
    merged.merge(own)
    return merged


def _without_dots(path: Path) -> Path:
    """The path without `..` if that names the same file. Behind a symbolic link it may name another one."""
    short = Path(os.path.normpath(path))
    return short if short.exists() and path.exists() and short.samefile(path) else path


def _read_file(path: Path, processes: int) -> SettingsTree:
    if not path.is_file():
        raise UserError(_missing_file(path, "config"))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the file cannot be read as text ({error}); give a YAML file") from None
    tree = parse_yaml(text, str(path))
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
