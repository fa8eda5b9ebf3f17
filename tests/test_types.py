"""Types of the whole package are checked, strictly; pyproject.toml has the settings."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_mypy_finds_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_ignored_finding_has_its_code_and_a_reason() -> None:
    """`# type: ignore[code]  # why`, or the reason in the line above."""
    for path in sorted((ROOT / "cclm").rglob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if "# type: ignore" not in line:
                continue
            place = f"{path.relative_to(ROOT)}:{number}"
            found = re.search(r"# type: ignore\[[\w-]+(, ?[\w-]+)*\](?P<rest>.*)", line)
            assert found, f"{place}: name the code of what is ignored"
            above = lines[number - 2].strip() if number > 1 else ""
            has_reason = re.search(r"#\s*\w", found["rest"]) is not None or above.startswith("#")
            assert has_reason, f"{place}: say why it is ignored"
