"""The newest TorchX that was tested, installed beside the one that the environment has.

    PYTHONPATH=$(python -m tests.torchx_nightly) pytest tests/unit/torchx_components

PyPI's `torchx` is still 0.7.0. What its next version will be is `torchx-nightly`. Its needs contradict those of 0.7.0
(urllib3), so both cannot be in one environment. It goes into a folder of its own, which comes before the environment's.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "2026.10.26"
KUBERNETES = "37.0.2"
"""The client for Kubernetes that pip takes for it."""
_ROOT = Path(__file__).parents[1]
_OWN = ("torchx", "kubernetes", "urllib3", "python-dateutil")
"""What it needs in other versions than the environment has."""


def folder() -> Path:
    """The folder for PYTHONPATH. It is installed by pip at the first call."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = Path(home).expanduser().resolve() / "cclm-torchx"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"nightly-{VERSION}-kubernetes-{KUBERNETES}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _install(target)
    return target


def _install(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        constraints = Path(work) / "constraints.txt"
        pins = (_ROOT / "constraints.txt").read_text().splitlines()
        own = re.compile(rf"({'|'.join(_OWN)})==")
        constraints.write_text("\n".join(pin for pin in pins if not own.match(pin)))
        packages = Path(work) / "packages"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts",
             f"--target={packages}", f"--constraint={constraints}",
             f"torchx-nightly=={VERSION}", f"kubernetes=={KUBERNETES}"],
            check=True, stdout=sys.stderr,
        )  # fmt: skip
        shutil.move(packages, target)


if __name__ == "__main__":
    print(folder())
