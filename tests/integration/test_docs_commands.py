"""Commands of docs/, as written, in a folder with a tiny demo world."""

import re
import shutil
from pathlib import Path

import pytest

from tests.pages import IN_A_SMALL_WORLD, PUBLISHED, ROOT, shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def succeed(command: str, folder: Path) -> str:
    """Run one command; returns what it printed."""
    done = shell(command, folder, OMP_NUM_THREADS="1")
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_commands_of_the_pages_in_a_small_world(tmp_path: Path) -> None:
    """Training is cut to four steps, in the copied config alone."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    config = tmp_path / "configs/demo/pretrain.yaml"
    shortened = re.sub(r"max_steps: 900\n  log_every: 50", "max_steps: 4\n  log_every: 2", config.read_text())
    assert shortened != config.read_text()
    config.write_text(shortened)
    succeed("cclm demo demo_world --tiny", tmp_path)
    for command in IN_A_SMALL_WORLD:
        if "demo_again" in command:
            shutil.copytree(tmp_path / "output/demo", tmp_path / "output/demo_again")
        if "--nnodes" in command:  # a run of its own, not the end of the one before
            shutil.rmtree(tmp_path / "output/demo")
        succeed(command, tmp_path)
    assert (tmp_path / "output/demo/step-00000004/manifest.json").is_file()
    assert list((tmp_path / "shards").glob("*.tar"))


def test_the_published_commands_of_the_pages(tmp_path: Path) -> None:
    first, change, *others = PUBLISHED
    succeed(f"{first} --tiny", tmp_path)
    for command in others:
        succeed(f"{change} && {command}", tmp_path)
    assert (tmp_path / "published/output/xvnli/results.json").is_file()
