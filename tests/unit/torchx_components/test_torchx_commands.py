"""`torchx` with all that this project registers: what it lists and shows, and what its start does not import."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import torchx_components

ROOT = Path(__file__).parents[3]
BEFORE_ANY_JOB = ("torch", "kubernetes", "docker", "pydantic")
"""What would make every torchx command slow."""


def torchx(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line, as a user would who has activated the environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "torchx.cli.main", *args],
        capture_output=True, text=True, cwd=cwd, env=os.environ | {"PATH": path},
    )  # fmt: skip


def test_torchx_lists_ours_and_its_own() -> None:
    listed = torchx("builtins").stdout
    for name in ("cclm.pretrain", "cclm.nlvr_domain", "dist.ddp", "utils.echo"):
        assert f" {name}\n" in listed


def test_torchx_shows_the_source_of_a_component() -> None:
    shown = torchx("builtins", "--print", "cclm.xvnli").stdout
    assert "def xvnli(options: PaperTask) -> specs.AppDef:" in shown


@pytest.mark.parametrize("command", ["--help", "run --help", "builtins"])
def test_start_imports_nothing_slow(command: str) -> None:
    check = (
        "import sys; from torchx.cli.main import main; sys.argv[1:] = sys.argv[1].split()\n"
        "try: main()\n"
        f"finally: print('imported:', [name for name in {BEFORE_ANY_JOB} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check, command], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "imported: []", done.stdout + done.stderr


def test_schedulers_of_torchx_stay_beside_ours() -> None:
    shown = torchx("run", "--help").stdout
    assert "{kubernetes,kubernetes_volcano,local_cwd,local_docker,slurm}" in shown.replace("\n", "").replace(" ", "")


def test_commands_that_torchx_lacks_are_there() -> None:
    shown = torchx("--help").stdout
    for command in ("resize", "delete", "log"):
        assert f",{command}" in shown
    assert "--since" in torchx("log", "--help").stdout


def test_run_options_are_shown_without_a_cluster() -> None:
    shown = torchx("runopts", "kubernetes").stdout
    assert shown.startswith("kubernetes:") and "namespace=NAMESPACE" in shown


def test_what_cannot_be_used_is_a_sentence_without_a_traceback() -> None:
    done = torchx("run", "-s", "local_cwd", "cclm.xvnli", "--checkpoint", "c", "-j", "4:2x8")
    assert done.returncode == 1
    assert "-j 4:2x8: the least nodes come first, as 2:4x8" in done.stderr
    assert "Traceback" not in done.stderr


def test_defaults_come_from_torchxconfig(tmp_path: Path) -> None:
    (tmp_path / ".torchxconfig").write_text(
        "[cli:run]\nscheduler = local_docker\nworkspace =\n"
        "[component:cclm.xvnli]\nimage = registry/cclm:7\ncheckpoint = s3://bucket/4m\nenv = A=1,B=2\ngmt = true\n"
    )
    done = torchx("run", "--dryrun", "cclm.xvnli", "--output", "o", "training.epochs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("registry/cclm:7", "s3://bucket/4m", "'A': '1'", "--gmt", "training.epochs=1"):
        assert text in done.stdout, text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("namespace = x\n", "no section headers"),
        ("[kubernetes]\nqueue = 5%\n", "'%' must be followed by"),
        ("[kubernetes]\ngrace_seconds = abc\n", "[kubernetes]: run option grace_seconds=abc: not a whole number"),
        ("[kubernetes]\nmax_attempts =\n", "run option max_attempts=: not a whole number"),
        ("[kubernetes]\nrestricted = maybe\n", "run option restricted=maybe: write true or false"),
        ("[kubernetes]\nlabels = a\n", "run option labels: a is not KEY:VALUE"),
        ("[kubernetes]\nlabels = a:b;\n", "run option labels=a:b;: write KEY:VALUE;KEY:VALUE, or leave the line out"),
        ("[kubernetes]\nqueu = a\n", "there is no run option queu; did you mean queue?"),
    ],
)
def test_a_wrong_torchxconfig_is_a_sentence_that_names_it(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / ".torchxconfig").write_text(text)
    done = torchx("run", "-s", "kubernetes", "--dryrun", "cclm.pretrain", "--output_hdfs", "s3://b/x", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert sentence in done.stderr and ".torchxconfig" in done.stderr


def block(language: str) -> str:
    """The only block of that language in docs/torchx.md."""
    page = (ROOT / "docs/torchx.md").read_text()
    (text,) = re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
    return text


def test_torchxconfig_of_the_page_makes_a_whole_job(tmp_path: Path) -> None:
    (tmp_path / ".torchxconfig").write_text(block("ini"))
    done = torchx("run", "--dryrun", "cclm.xvnli", "--output_hdfs", "s3://bucket/x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("namespace: team-a", "kueue.x-k8s.io/queue-name: training", "serviceAccountName: trainer"):
        assert text in done.stdout, text
    done = torchx("run", "--dryrun", "cclm.pretrain", "--output_hdfs", "s3://bucket/4m", cwd=tmp_path)
    assert "--nnodes 2:4 --nproc-per-node 8" in re.sub(r"\s+", " ", done.stdout.partition("REQUEST")[2])


def test_python_of_the_page(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", block("python")], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kind: PyTorchJob" in done.stdout


def test_the_page_has_every_component_and_argument() -> None:
    page = (ROOT / "docs/torchx.md").read_text()
    for name, component in inspect.getmembers(torchx_components, inspect.isfunction):
        assert f"| `cclm.{name}` |" in page
        for argument in inspect.signature(component).parameters:
            option = f"-{argument}" if len(argument) == 1 else f"--{argument}"
            assert argument == "overrides" or f"`{option}`" in page, option


@pytest.mark.slow
def test_failed_run_is_reported_and_exits_with_1(tmp_path: Path) -> None:
    logs = ("-cfg", f"log_dir={tmp_path}/logs")
    done = torchx("run", "-s", "local_cwd", *logs, "cclm.pretrain", "--config", str(tmp_path / "absent.yaml"))
    assert done.returncode == 1
    assert "FAILED" in done.stderr
    # Not the stderr of torchx: its copy of this log may lack the last lines.
    (log,) = (tmp_path / "logs").rglob("stderr.log")
    assert "cclm: error: " in log.read_text() and "absent.yaml" in log.read_text()
