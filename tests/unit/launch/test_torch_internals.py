"""What cclm uses of torch without torch's promise: a new torch that lost or changed a name is told by that name."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

from cclm.launch.torch_internals import INTERNALS, VARIABLES, TorchInternal

ROOT = Path(__file__).parents[3]
OF_OTHER_PACKAGES = {"_exit", "_SubParsersAction"}
"""Private names in files that import torch which are not torch's: those of os and argparse."""


def is_set_on_instances(kind: type, name: str) -> bool:
    """Whether a class, or one that it inherits from, assigns `self.NAME` or declares a field NAME."""
    assignment = re.compile(rf"\bself\.{name}\b\s*(:[^=\n]+)?=[^=]|^    {name}: ", re.MULTILINE)
    return any(assignment.search(inspect.getsource(base)) for base in kind.__mro__ if base.__module__ != "builtins"
               and base.__module__.startswith("torch"))  # fmt: skip


def problem(entry: TorchInternal) -> str | None:
    """What a torch has changed about a name; None if nothing."""
    where = f"torch {torch.__version__}: {entry.module}.{entry.name}, used in {entry.user},"
    try:
        found = importlib.import_module(entry.module)
    except ImportError:
        return f"{where} is gone with its module"
    *classes, last = entry.name.split(".")
    for name in classes:
        found = getattr(found, name, None)
        if found is None:
            return f"{where} is gone with its class"
    if not hasattr(found, last):
        is_attribute = bool(classes) and entry.parameters is None and is_set_on_instances(found, last)
        return None if is_attribute else f"{where} is gone"
    if entry.parameters is None:
        return None
    parameters = tuple(inspect.signature(getattr(found, last)).parameters)
    if parameters[:1] == ("self",):
        parameters = parameters[1:]
    if parameters != entry.parameters:
        return f"{where} now takes {', '.join(parameters)} instead of {', '.join(entry.parameters)}"
    return None


@pytest.mark.parametrize("entry", INTERNALS, ids=lambda entry: entry.name)
def test_torch_still_has_it(entry: TorchInternal) -> None:
    assert problem(entry) is None, problem(entry)
    used = entry.name.rpartition(".")[2] in (ROOT / entry.user).read_text(encoding="utf-8")
    assert used, f"{entry.user} no longer uses {entry.name}: take it off the list"


@pytest.mark.parametrize(("variable", "module"), VARIABLES.items())
def test_torch_still_knows_the_variable(variable: str, module: str) -> None:
    source = inspect.getsource(importlib.import_module(module))
    assert variable in source, f"torch {torch.__version__}: {module} no longer knows {variable}"


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (TorchInternal("torch.no_such", "f", "x.py"), "torch.no_such.f, used in x.py, is gone with its module"),
        (TorchInternal("torch.nn", "NoSuch.f", "x.py"), "torch.nn.NoSuch.f, used in x.py, is gone with its class"),
        (TorchInternal("torch.nn", "Module._no_such", "x.py"), "_no_such, used in x.py, is gone"),
        (TorchInternal("torch.nn", "Module.train", "x.py", ("a", "b")), "now takes mode instead of a, b"),
    ],
)
def test_what_a_new_torch_changes_is_named(entry: TorchInternal, sentence: str) -> None:
    assert str(problem(entry)).endswith(sentence)


def private_names_in(path: Path) -> tuple[set[str], set[str]]:
    """Names with one leading underscore that a file uses, and those that it defines."""
    used, defined = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.attr)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "torch":
            used |= {alias.name for alias in node.names}
    return {name for name in used if re.match("_[^_]", name)}, {name for name in defined if re.match("_[^_]", name)}


def test_the_list_is_whole() -> None:
    """A private name in a file that imports torch is defined in cclm, or is on the list."""
    files = {path: private_names_in(path) for path in (ROOT / "cclm").rglob("*.py")}
    ours = set().union(*(defined for _, defined in files.values())) | OF_OTHER_PACKAGES
    listed = {part for entry in INTERNALS for part in entry.name.split(".")}
    for path, (used, _) in files.items():
        if re.search(r"^\s*(import|from) torch\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            unknown = used - ours - listed
            assert not unknown, f"{path.relative_to(ROOT)} uses {sorted(unknown)} of torch: name it in torch_internals"


def test_the_agent_shares_no_other_name_with_torchs() -> None:
    """A new torch could begin to use a name that our agent has, too."""
    files = [private_names_in(ROOT / f"cclm/launch/{name}.py") for name in ("agent", "meeting_agent")]
    shared = {name for used, defined in files for name in used | defined
              if hasattr(LocalElasticAgent, name) or is_set_on_instances(LocalElasticAgent, name)}  # fmt: skip
    assert shared == {entry.name.split(".")[1] for entry in INTERNALS if entry.name.startswith("LocalElasticAgent.")}


def test_the_list_needs_no_torch() -> None:
    source = (ROOT / "cclm/launch/torch_internals.py").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) torch\b", source, re.MULTILINE)
