"""README's commands, as written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LANGUAGES = ("en", "de", "fr", "es", "id", "tr", "ru", "zh", "ja", "ar")


def commands() -> list[str]:
    """Every line of README's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run one line as a user would who has activated the environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    return subprocess.run(
        ["sh", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def test_parity_command(tmp_path: Path) -> None:
    command = next(line for line in commands() if line.startswith("cclm parity"))
    done = shell(command, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 not ok" in done.stdout


def test_every_command_of_the_table_exists() -> None:
    names = set(re.findall(r"^\| `cclm (\w+)", README, flags=re.MULTILINE))
    assert {"demo", "pretrain", "evaluate", "describe", "parity", "convert"} <= names
    for name in names:
        assert shell(f"cclm {name} --help", ROOT).returncode == 0


@pytest.fixture(scope="module")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the demo run of README was made, and what it printed."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    drawn = shell("cclm demo demo_world", folder)
    assert drawn.returncode == 0, drawn.stderr
    done = shell(next(line for line in commands() if line.startswith("torchx run")), folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_main_job_learns_every_language(main_job: tuple[Path, str]) -> None:
    """At least 10 % R@1 both ways in every language; chance is 0.2 %."""
    _, table = main_job
    for language in LANGUAGES:
        row = re.search(rf"^\S*\s*{language}((?:\s+\d+\.\d+)+)\s*$", table, flags=re.MULTILINE)
        assert row, f"no row for {language} in\n{table}"
        recalls = [float(number) for number in row[1].split()]
        assert recalls[0] >= 10 and recalls[3] >= 10, f"{language}: {recalls}"


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_what_readme_does_with_the_main_job(main_job: tuple[Path, str]) -> None:
    """Each line as written, in the order of README; fine-tuning is cut to one epoch, in the copied config alone."""
    folder, _ = main_job
    base = folder / "configs" / "demo" / "base" / "finetune.yaml"
    base.write_text(base.read_text().replace("epochs: 10", "epochs: 1"))
    few = folder / "configs" / "demo" / "xvnli_fewshot.yaml"
    few.write_text(re.sub(r"epochs: 20.*?validate_every: 5", "epochs: 1", few.read_text(), flags=re.DOTALL))
    lines = [line for line in commands() if line.startswith("cclm") and re.search(r"\boutput/demo", line)]
    assert len(lines) == 6, lines
    for line in lines:
        done = shell(line, folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
