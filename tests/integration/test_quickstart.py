"""The two commands of README: what they run, and how the tests of all kinds go beside each other."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.pages import DEMO_RUN, ROOT, commands, shell

README = ROOT / "README.md"


def test_ci_runs_the_whole_test_command_of_readme() -> None:
    assert "sh quickstart.sh test" in commands(README)
    assert "`sh quickstart.sh test all`" in README.read_text(encoding="utf-8")
    assert "exec sh quickstart.sh test all" in (ROOT / ".ci" / "run").read_text()


def test_quickstart_runs_what_readme_says() -> None:
    script = (ROOT / "quickstart.sh").read_text()
    [shown] = DEMO_RUN
    assert f"say {shown}" in script
    assert subprocess.run(["sh", "-n", str(ROOT / "quickstart.sh")]).returncode == 0
    for words in ("tset", "test all -x"):
        wrong = shell(f"sh quickstart.sh {words}", ROOT)
        assert wrong.returncode == 2 and "usage" in wrong.stderr


@pytest.mark.parametrize("failing", ["program", "cluster", "small"])
@pytest.mark.slow
def test_the_whole_test_command_runs_all_parts_and_honours_each(tmp_path: Path, failing: str) -> None:
    shutil.copy(ROOT / "quickstart.sh", tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "pip").write_text("#!/bin/sh\n")  # everything is installed
    (programs / "pip").chmod(0o755)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    cluster: x\n")

    def body(part: str) -> str:
        return f"def test_{part}():\n    assert {part != failing}\n"

    (tmp_path / "test_it.py").write_text(f"import pytest\n@pytest.mark.cluster\n{body('cluster')}{body('small')}")
    (tmp_path / "tests/integration").mkdir(parents=True)
    (tmp_path / "tests/integration/test_program.py").write_text(body("program"))
    done = shell("sh quickstart.sh test all", tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    for part, summary in zip(("program", "cluster", "small"), done.stdout.splitlines()[-3:], strict=True):
        assert ("1 failed" if part == failing else "1 passed") in summary
    assert done.stdout.count("test session starts") == 3, "each part is shown whole"
