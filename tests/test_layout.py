"""Rules of the house that a machine can check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cclm.config_files import load_config

ROOT = Path(__file__).parents[1]
PACKAGES = ("cclm", "torchx_components", "k8s", "benchmarks", "tests")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 400, 80

# Who may import whom inside cclm; everything may import errors, sequences, pixels and the top-level config.
LAYERS = {
    "model": {"model", "config", "sequences", "pixels"},
    "data": {"data", "config", "config_finetune", "sequences", "errors", "storage"},
    "metrics": {"metrics", "errors", "config", "sequences", "data"},
    "storage": {"storage", "errors"},
    "launch": {"launch", "errors", "storage"},
    "tasks": {"tasks", "model", "data", "metrics", "config", "sequences", "distributed", "errors"},
    "checkpoints": {"checkpoints", "model", "config", "errors", "sequences", "storage"},
    "demo": {"demo", "data", "errors", "config_files"},
}


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 80


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE, f"{path.name} has over {MAX_FILE} lines: one subject a file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MAX_FUNCTION, f"{path.name}: {node.name} has {lines} lines"


@pytest.mark.parametrize("command", [["check"], ["format", "--check", "--diff"]], ids=lambda command: command[0])
def test_the_linter_finds_nothing(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def imported(path: Path) -> set[str]:
    """Dotted names of modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    files = sorted((ROOT / "cclm" / layer).rglob("*.py")) or [ROOT / "cclm" / f"{layer}.py"]
    for path in files:
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "cclm" and len(parts) > 1:
                assert parts[1] in LAYERS[layer], f"{path.relative_to(ROOT)} imports {name}"


def test_torch_distributed_lives_in_one_module() -> None:
    """One for training, and torchrun's agent in the launcher."""
    users = [path.relative_to(ROOT) for path in SOURCES if "cclm" == path.relative_to(ROOT).parts[0]
             and any(name.startswith("torch.distributed") for name in imported(path))]  # fmt: skip
    assert users == [Path("cclm/distributed.py"), Path("cclm/launch/agent.py"), Path("cclm/launch/build.py")]


def test_every_config_loads() -> None:
    files = [path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name not in ("model", "base")]
    assert len(files) >= 22
    for path in files:
        load_config(path)


def test_nothing_unsafe_is_read() -> None:
    unsafe = re.compile(r"pickle\.loads?\(|yaml\.load\(|yaml\.unsafe_load|weights_only=False|shell=True|os\.system\(")
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] != "tests":
            found = unsafe.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{path.relative_to(ROOT)}: {found[0]}"
