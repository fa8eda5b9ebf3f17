"""All that has to be run on a GPU, by one command: its tests, then the benchmark of the published model's step.

    python -m benchmarks.gpu

Prints the benchmark's line of JSON, and whether each aim is kept. Ends with 1 where a test fails or an aim is missed,
and with 2 where there is no GPU. `python -m benchmarks.predict` says beforehand what to expect.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import torch

TESTS = [sys.executable, "-m", "pytest", "tests/gpu"]
RATIO, PART_OF_PEAK = 2.5, 0.45
"""Aims: times as fast as the published step, and part of the GPU's peak that products of real tokens reach."""


def benchmark(batch: int, rounds: int) -> list[str]:
    """The command that times the published model."""
    words = f"--model base --batch {batch} --rounds {rounds} --warm-up 3 --device cuda --precision bfloat16 --plain"
    return [sys.executable, "-m", "benchmarks.step", *words.split()]


def judged(line: dict[str, Any]) -> dict[str, bool]:
    """Whether each aim is kept, by its sentence."""
    result = {}
    for kind in ("images", "texts"):
        ratio, part = line[kind]["ratio"]["wall"]["median"], line[kind]["ours"].get("part_of_peak")
        result[f"{kind}: {ratio} times as fast as published, aim {RATIO}"] = ratio >= RATIO
        reached = part is not None and part >= PART_OF_PEAK
        result[f"{kind}: {'an unknown part' if part is None else part} of the peak, aim {PART_OF_PEAK}"] = reached
    return result


def main() -> None:
    """Test, time, judge."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128, help="texts of a batch")
    parser.add_argument("--rounds", type=int, default=10, help="steps of each kind that are timed")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU here; python -m benchmarks.predict needs none")
    failed = subprocess.run(TESTS, check=False).returncode != 0
    done = subprocess.run(benchmark(args.batch, args.rounds), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    print(done.stdout, end="")
    aims = judged(json.loads(done.stdout))
    for sentence, is_kept in aims.items():
        print(f"{'kept' if is_kept else 'MISSED'}: {sentence}")
    raise SystemExit(failed or not all(aims.values()))


if __name__ == "__main__":
    main()
