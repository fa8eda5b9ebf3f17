"""Rules of the house that a machine can check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cclm.config.files import load_config

ROOT = Path(__file__).parents[1]
PACKAGES = ("cclm", "torchx_components", "k8s", "benchmarks", "tests")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 400, 80

PACKAGES_OF_ROOMS = {"cclm", "data"}
"""Packages that only hold rooms; they import nothing of ours."""

FLOOR = {
    "collective_time",
    "errors",
    "events",
    "launch_contract",
    "processes",
    "sequences",
    "pixels",
    "signals",
    "__version__",
}
"""Single files of `cclm/`, and the package `events`, that every room may import; they import no room."""

# Each room of `cclm/` and the rooms that it may import. A room of `data` is named as `data.stored`.
ROOMS = {
    "storage": set(),
    "config": set(),
    "model": {"config"},
    "metrics": set(),
    "distributed": set(),
    "gradient_compression": set(),
    "data.cleaning": set(),
    "data.stored": {"storage", "config"},
    "data.annotations": {"storage", "config", "data.cleaning", "data.stored"},
    "data.examples": {"config", "data.cleaning", "data.stored", "data.annotations"},
    "data.batches": {
        "storage", "config", "data.cleaning", "data.stored", "data.annotations", "data.examples",
        "metrics",  # a loader process counts its own calls to stores
    },
    "data.commands": {"storage", "config", "data.cleaning", "data.stored", "data.annotations", "data.examples"},
    "tasks": {"config", "data.annotations", "data.examples", "data.batches", "distributed", "metrics", "model"},
    "checkpoints": {"storage", "config", "model", "metrics"},  # the writer counts its own calls to stores
    "preflight": {"storage"},
    "training": {
        "storage", "config", "data.cleaning", "data.stored", "data.annotations", "data.examples", "data.batches",
        "distributed", "gradient_compression", "metrics", "model", "tasks", "checkpoints", "preflight",
    },
    "launch": {"storage", "metrics", "preflight"},
    "curves": {"storage", "metrics"},
    "demo": {"config", "data.cleaning"},
    "parity": {
        "config", "data.cleaning", "data.batches", "distributed", "metrics", "model", "tasks", "checkpoints",
        "training",
    },
    "cli": {
        "storage", "config", "data.stored", "data.annotations", "data.commands", "metrics", "model", "checkpoints",
        "preflight", "training", "launch", "curves", "demo", "parity",
    },
    "__main__": {"cli"},
    "components": {"cli", "config", "data.stored"},
}  # fmt: skip


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
            module = node.module or ""
            if node.level:  # relative: from the package that holds the file, or from one above it
                module = ".".join([*path.relative_to(ROOT).parts[: -node.level], *filter(None, [module])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str | None:
    """The room that a dotted name belongs to: `cclm.data.stored.index` -> `data.stored`; None outside of `cclm`.

    The packages `cclm` and `cclm.data` themselves, which every import of what is in them runs, are rooms of their own.
    """
    parts = module.split(".")
    if parts[0] != "cclm":
        return None
    if len(parts) < 2:
        return "cclm"
    return ".".join(parts[1:3]) if parts[1] == "data" and len(parts) > 2 else parts[1]


def module_of(path: Path) -> str:
    """The dotted name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_the_rooms_are_all_known_and_imports_go_down() -> None:
    """Every room is in the table, and the table itself has no circle: each room is listed after those it imports."""
    found = {room_of(module_of(path)) for path in (ROOT / "cclm").rglob("*.py")}
    assert found == ROOMS.keys() | PACKAGES_OF_ROOMS | (FLOOR - {"__version__"})
    earlier: set[str] = set()
    for room, imported_rooms in ROOMS.items():
        assert imported_rooms <= earlier, f"{room} may import {imported_rooms - earlier}, which come later"
        earlier.add(room)


@pytest.mark.parametrize("room", [*ROOMS, *sorted(PACKAGES_OF_ROOMS), *sorted(FLOOR - {"__version__"})])
def test_imports_go_one_way(room: str) -> None:
    """No import of a file, wherever in the file it stands, leads to a room that its own may not know."""
    allowed = (ROOMS[room] | FLOOR | {room}) if room in ROOMS else FLOOR
    allowed = set() if room in PACKAGES_OF_ROOMS else allowed
    for path in (ROOT / "cclm").rglob("*.py"):
        if room_of(module_of(path)) == room:
            for name in imported(path):
                assert room_of(name) in {None, *allowed}, f"{path.relative_to(ROOT)} imports {name}"


def test_modules_are_imported_by_name() -> None:
    """An import by a computed name is one that the rules above cannot see. `cclm COMMAND` loads its module so."""
    users = [path.relative_to(ROOT) for path in SOURCES if path.relative_to(ROOT).parts[0] == "cclm"
             and re.search(r"import_module\(|__import__\(", path.read_text(encoding="utf-8"))]  # fmt: skip
    assert users == [Path("cclm/cli/main.py")]


def test_torch_distributed_lives_in_five_modules() -> None:
    """Two for training, and those of the launcher that build and are torchrun's agent, of two kinds."""
    users = [path.relative_to(ROOT) for path in SOURCES if "cclm" == path.relative_to(ROOT).parts[0]
             and any(name.startswith("torch.distributed") for name in imported(path))]  # fmt: skip
    assert users == [Path("cclm/distributed.py"), Path("cclm/gradient_compression.py"), Path("cclm/launch/agent.py"),
                     Path("cclm/launch/meeting_agent.py"), Path("cclm/launch/torchrun.py")]  # fmt: skip


def test_modules_that_meet_have_names_of_their_own() -> None:
    """No module imports one of its own name from another folder, and none has the name of a package that we use.

    A command's file has the command's name, and may import what has it, too.
    """
    commands = {"cclm.cli.finetune", "cclm.cli.pretrain"}
    ours = {
        module_of(path): path for path in (ROOT / "cclm").rglob("*.py") if path.stem not in ("__init__", "__main__")
    }
    foreign = {name.partition(".")[0] for path in ours.values() for name in imported(path)}
    foreign -= {"cclm", *sys.stdlib_module_names}
    assert [name for name in ours if name.rpartition(".")[2] in foreign | {"tensorboard", "torchx"}] == []
    for name, path in ours.items():
        met = {ours[other] for full in imported(path) for other in (full, full.rpartition(".")[0]) if other in ours}
        alike = [other for other in met - {path} if other.stem == path.stem]
        assert not alike or name in commands, f"{path.relative_to(ROOT)} imports {alike}"


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


def test_files_of_tests_outside_packages_have_names_of_their_own() -> None:
    """pytest imports such a file by its name alone, and collects nothing where two have the same."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if not (path.parent / "__init__.py").exists()]
    names = [path.name for path in files]
    assert sorted({name for name in names if names.count(name) > 1}) == []
