"""The command lines of the benchmarks: what cannot be measured is told before anything is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults as faults_benchmark
from benchmarks import metrics as metrics_benchmark
from benchmarks.input import main
from cclm.events import Event, StepDone

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["checkpoint", "input"])
def test_a_script_that_must_be_a_module_says_so(name: str) -> None:
    without_path = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, f"benchmarks/{name}.py"]
    done = subprocess.run(command, cwd=ROOT, env=without_path, capture_output=True, text=True, check=False)
    assert done.returncode and done.stderr == (
        f"start it from the folder of the repository, as: python -m benchmarks.{name}\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--contenders", "ours/tar,ours/nope"], "'ours/nope' is unknown; known are ours/lines, ours/tar, published, "),
        (["--stores", "ftp"], "'ftp' is unknown; known are local, s3, hdfs"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(words, said, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.input", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


def test_an_unknown_fault_is_refused_with_the_known_ones(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.faults", "--cluster", "none", "--faults", "rank killed,flood"])
    with pytest.raises(SystemExit) as caught:
        faults_benchmark.main()
    assert caught.value.code == 2 and "'flood' is unknown; known are rank killed, " in capsys.readouterr().err


def test_faults_are_shown_with_counts_bounds_and_the_stock_job() -> None:
    ours = {"rank killed (worker-0)": [12.0, 31.0, 17.0], "node killed (worker-0)": [140.0]}
    stock = {"rank killed (worker-0)": [42.0], "pod deleted (worker-0)": [faults_benchmark.NEVER]}
    lines = faults_benchmark.table(ours, stock).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "cclm median worst bound stock median worst",
        "rank killed (worker-0) 3 17 s 31 s 30 s MISSED 1 42 s 42 s",
        "node killed (worker-0) 1 140 s 140 s 150 s kept -",
        "pod deleted (worker-0) - 1 never never",
    ]


def test_a_run_too_short_for_a_comparison_is_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.metrics", "--steps", "30"])
    with pytest.raises(SystemExit) as caught:
        metrics_benchmark.main()
    assert caught.value.code == 2
    assert "--steps 30: at least five intervals of 10 steps are needed" in capsys.readouterr().err


def test_metrics_are_kept_in_every_second_block() -> None:
    kept: list[Event] = []

    class Keeping:
        def handle(self, event: Event) -> None:
            kept.append(event)

    turns = metrics_benchmark.TakingTurns(Keeping())
    for step in range(1, 9):
        turns.handle(StepDone(step))
        if step % 2 == 0:
            turns.handle(metrics_benchmark.interval(step))
    assert [is_kept for is_kept, _, _ in turns.blocks] == [True, False, True]
    # The first block is not measured: it holds the start of the run.
    assert [event.step for event in kept if isinstance(event, StepDone)] == [1, 2, 3, 4, 7, 8]
