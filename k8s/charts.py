"""Files of the Helm charts that are made from the code and from each other.

python -m k8s.charts machines > helm/CHART/machines.yaml
python -m k8s.charts readme helm/CHART > helm/CHART/README.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from k8s.quantities import MEGABYTE, in_mebibytes
from k8s.resources import MACHINES, SHARED_MEMORY_OF_GPU

_MACHINES_HEAD = """\
# Machine type -> what a pod that has the machine for itself asks for. memoryMi is memMB with /dev/shm.
# Made by `python -m k8s.charts machines`."""


def machines() -> str:
    """machines.yaml of the charts: what a pod on each machine type asks for, as the named resources do."""
    table = {}
    for name, machine in MACHINES.items():
        asked = machine.resource
        memory = in_mebibytes(asked.memMB * MEGABYTE + SHARED_MEMORY_OF_GPU * asked.gpu)
        table[machine.instance_type] = {
            "cloud": "eks" if machine.accelerator is None else "gke",
            "resource": name,
            "gpus": asked.gpu,
            "efa": machine.efa,
            "cpu": asked.cpu,
            "memMB": asked.memMB,
            "memoryMi": int(memory.removesuffix("Mi")),
            **({"accelerator": machine.accelerator} if machine.accelerator else {}),
        }
    return f"{_MACHINES_HEAD}\n{yaml.safe_dump(table, sort_keys=False)}"


@dataclass(frozen=True)
class Value:
    """A documented value of a chart."""

    key: str
    default: Any
    text: str


def values_of(chart: Path) -> list[Value]:
    """The values of a chart with a comment `# --` above them.

    Raises:
        ValueError: a value without such a comment.
    """
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    comments = dict(_comments(text))
    return [Value(key, default, comments[key]) for key, default in _leaves(yaml.safe_load(text), comments, ())]


def _leaves(values: dict[str, Any], comments: dict[str, str], above: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = ".".join([*above, name])
        if key in comments:
            yield key, value
        elif isinstance(value, dict) and value:
            yield from _leaves(value, comments, (*above, name))
        else:
            raise ValueError(f"values.yaml: {key} has no comment `# --`")


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Dotted key -> its comment. Each level of the file is indented by two spaces."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        words = line.strip()
        if words.startswith("#"):
            comment = (
                [words[4:].strip()] if words.startswith("# --") else [*comment, words.lstrip("# ")] * bool(comment)
            )
        elif words and not words.startswith("- "):
            depth = (len(line) - len(line.lstrip())) // 2
            path = [*path[:depth], words.partition(":")[0]]
            if comment:
                yield ".".join(path), " ".join(comment)
            comment = []
        else:
            comment = []


def readme(chart: Path) -> str:
    """README.md of a chart: its README.in.md, with a table of the values in the place of `{{ values }}`."""
    rows = ["| value | default | what it does |", "| --- | --- | --- |"]
    for value in values_of(chart):
        default = yaml.safe_dump(value.default, default_flow_style=True).strip().removesuffix("\n...")
        rows.append(f"| `{value.key}` | `{default}` | {value.text} |")
    return (chart / "README.in.md").read_text(encoding="utf-8").replace("{{ values }}", "\n".join(rows))


if __name__ == "__main__":
    print(machines() if sys.argv[1:] == ["machines"] else readme(Path(sys.argv[2])), end="")
