"""The TorchX component: torchx accepts it, finds it beside its own, and what it starts is `cclm pretrain`."""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from torchx.components.component_test_base import ComponentTestCase
from torchx.specs import AppDef

import torchx_components
from cclm.cli import launch


class TestValidation(ComponentTestCase):
    def test_torchx_accepts_them(self) -> None:
        for name in ("pretrain", "finetune", "evaluate"):
            self.validate(torchx_components, name)


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


def options(words: list[str]) -> dict[str, str]:
    """What `cclm launch` makes of them."""
    parser = argparse.ArgumentParser()
    launch.add_parser(parser.add_subparsers())
    return vars(parser.parse_args(words[2:]))


def test_command_line():
    app = torchx_components.pretrain(
        "a.b=1", "c=[2, 3]", config="my run.yaml", j="2x8", gpu=8, env={"NCCL_DEBUG": "INFO"}
    )
    words = command_of(app)
    assert words[:3] == ["exec", "cclm", "launch"]
    assert words[words.index("--") :] == [
        "--",
        "pretrain",
        "--resume",
        "auto",
        "my run.yaml",
        "a.b=1",
        "c=[2, 3]",
    ]
    assert options(words)["nnodes"] == "2"
    assert options(words)["nproc_per_node"] == "8"
    assert options(words)["max_restarts"] == "3"
    role = app.roles[0]
    assert (role.num_replicas, role.resource.gpu, role.env["NCCL_DEBUG"]) == (2, 8, "INFO")


def test_one_node_needs_no_fixed_port():
    words = command_of(torchx_components.pretrain(config="x.yaml"))
    assert options(words)["rdzv_endpoint"] == "localhost:0"


def test_other_commands_and_elastic_nodes():
    words = command_of(torchx_components.evaluate("a=1", config="x.yaml", checkpoint="s3://b/run", j="1:2x8"))
    assert words[words.index("--") :] == ["--", "evaluate", "--checkpoint", "s3://b/run", "x.yaml", "a=1"]
    tuned = command_of(torchx_components.finetune(config="x.yaml", checkpoint="output/run", fewshot="ar,48"))
    assert tuned[tuned.index("--") :] == [
        "--", "finetune", "--checkpoint", "output/run", "--fewshot", "ar,48", "--resume", "auto", "x.yaml",
    ]  # fmt: skip
    assert options(words)["nnodes"] == "1:2"
    assert options(words)["rdzv_endpoint"] == "$${rank0_env:=localhost}:29500".replace("rank0_env", "${rank0_env}")


def test_torchx_lists_ours_and_its_own():
    listed = torchx("builtins").stdout
    for name in ("cclm.pretrain", "dist.ddp", "utils.echo"):
        assert name in listed


def test_component_does_not_import_torch():
    """Every torchx command imports it."""
    check = "import sys, torchx_components; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.slow
def test_failed_run_is_reported_and_exits_with_1(tmp_path):
    logs = ("-cfg", f"log_dir={tmp_path}/logs")
    done = torchx("run", "-s", "local_cwd", *logs, "cclm.pretrain", "--config", str(tmp_path / "absent.yaml"))
    assert done.returncode == 1
    assert "FAILED" in done.stderr
    # Not the stderr of torchx: its copy of this log may lack the last lines.
    (log,) = (tmp_path / "logs").rglob("stderr.log")
    assert "cclm: error: " in log.read_text() and "absent.yaml" in log.read_text()
