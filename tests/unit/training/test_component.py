"""The TorchX component: torchx accepts it, finds it beside its own, and what it starts is `cclm pretrain`."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from torchx.components.component_test_base import ComponentTestCase
from torchx.specs import AppDef

import torchx_components


class TestValidation(ComponentTestCase):
    def test_torchx_accepts_it(self) -> None:
        self.validate(torchx_components, "pretrain")


def torchx(*args: str) -> subprocess.CompletedProcess:
    scripts = str(Path(sys.executable).parent)
    return subprocess.run(
        [f"{scripts}/torchx", *args],
        capture_output=True, text=True, env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip


def command_of(app: AppDef) -> list[str]:
    (role,) = app.roles
    assert role.args[0] == "-c"
    return shlex.split(role.args[1])


def test_command_line():
    app = torchx_components.pretrain(
        "a.b=1", "c=[2, 3]", config="my run.yaml", j="2x8", gpu=8, env={"NCCL_DEBUG": "INFO"}
    )
    words = command_of(app)
    assert words[words.index("-m") :] == [
        "-m",
        "cclm",
        "pretrain",
        "--resume",
        "auto",
        "my run.yaml",
        "a.b=1",
        "c=[2, 3]",
    ]
    assert words[words.index("--nnodes") + 1] == "2"
    assert words[words.index("--nproc_per_node") + 1] == "8"
    role = app.roles[0]
    assert (role.num_replicas, role.resource.gpu, role.env["NCCL_DEBUG"]) == (2, 8, "INFO")


def test_one_node_needs_no_fixed_port():
    words = command_of(torchx_components.pretrain(config="x.yaml"))
    assert words[words.index("--rdzv_endpoint") + 1] == "localhost:0"


def test_torchx_lists_ours_and_its_own():
    listed = torchx("builtins").stdout
    for name in ("cclm.pretrain", "dist.ddp", "utils.echo"):
        assert name in listed


def test_component_does_not_import_torch():
    """Every torchx command imports it."""
    check = "import sys, torchx_components; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.slow
def test_failed_run_is_told_and_exits_with_1(tmp_path):
    done = torchx("run", "-s", "local_cwd", "cclm.pretrain", "--config", str(tmp_path / "absent.yaml"))
    assert done.returncode == 1
    assert "cclm: error: " in done.stderr
    assert "absent.yaml" in done.stderr
    assert "FAILED" in done.stderr
