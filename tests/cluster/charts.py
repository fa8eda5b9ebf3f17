"""helm, of both versions that charts are for, and what it makes of the charts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import gobuild
from tests.cluster.common import PROJECT

HELMS = ("helm", "helm4")
"""helm 3 and helm 4, by their names in versions.toml."""
POOL, RUN = PROJECT / "helm" / "a100-pool", PROJECT / "helm" / "cclm-pretrain"
KUBERNETES = ("--kube-version", "1.33.4")
"""A helm that is built from its module does not know a newer Kubernetes than 1.20."""


def helm(
    *arguments: object, program: str = "helm", check: bool = True, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run helm. With `check`, it must succeed."""
    command = [str(gobuild.build(program)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def given(values: dict[str, Any]) -> list[str]:
    """Values as options of helm, with their types."""
    return [word for name, value in values.items() for word in ("--set-json", f"{name}={json.dumps(value)}")]


def template(chart: Path, release: str, *arguments: object, program: str = "helm") -> str:
    """What helm makes of a chart without asking a cluster."""
    return helm("template", release, chart, *KUBERNETES, *arguments, program=program).stdout


def rendered(chart: Path, release: str, *arguments: object, program: str = "helm") -> list[Any]:
    """The objects of that."""
    return [one for one in yaml.safe_load_all(template(chart, release, *arguments, program=program)) if one]


def refusal(chart: Path, release: str, *arguments: object, program: str = "helm") -> str:
    """What helm says of values that cannot be."""
    done = helm("template", release, chart, *KUBERNETES, *arguments, program=program, check=False)
    assert done.returncode != 0
    return done.stderr
