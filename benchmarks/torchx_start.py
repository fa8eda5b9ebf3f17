"""How long `torchx --help` takes with everything that this project registers: each command of torchx begins so.

    python -m benchmarks.torchx_start --rounds 20

It prints the median and the slowest start, wall-clock and CPU time, beside those of a Python that imports nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "torchx --help": ["-m", "torchx.cli.main", "--help"],
    "torchx run cclm.xvnli --help": ["-m", "torchx.cli.main", "run", "-s", "local_cwd", "cclm.xvnli", "--help"],
}


class Start(NamedTuple):
    """Seconds of one start."""

    wall: float
    cpu: float


def measure(arguments: list[str]) -> Start:
    """Start Python once and wait for its end. Raises CalledProcessError if it fails."""
    before, begin = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - begin, os.times()
    return Start(wall, after.children_user + after.children_system - before.children_user - before.children_system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="starts of each command (default %(default)s)")
    rounds = parser.parse_args().rounds
    print(f"{'seconds':32}{'wall, median':>14}{'slowest':>9}{'CPU, median':>13}")
    for name, arguments in COMMANDS.items():
        measure(arguments)  # files come into the system's cache
        starts = [measure(arguments) for _ in range(rounds)]
        walls = [start.wall for start in starts]
        cpu = statistics.median(start.cpu for start in starts)
        print(f"{name:32}{statistics.median(walls):14.2f}{max(walls):9.2f}{cpu:13.2f}")


if __name__ == "__main__":
    main()
