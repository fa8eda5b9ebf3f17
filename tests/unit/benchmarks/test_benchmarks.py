"""The command lines of the benchmarks: what cannot be measured is told before anything is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import faults as faults_benchmark
from benchmarks import gpu as gpu_benchmark
from benchmarks import metrics as metrics_benchmark
from benchmarks import predict
from benchmarks.input import main
from benchmarks.step_inputs import KINDS
from benchmarks.step_plain import PlainTask
from cclm.checkpoints.initial import build_model, outline
from cclm.config.compute import ComputeConfig
from cclm.config.pretrain import ObjectiveConfig
from cclm.events import Event, StepDone
from cclm.tasks.pretraining_task import PretrainTask
from tests.unit.tasks.test_fast_paths import CONFIG, batch

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


def test_what_needs_a_gpu_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        gpu_benchmark.main()
    assert caught.value.code == 2 and "torch finds no GPU here" in capsys.readouterr().err


def test_aims_on_a_gpu_are_kept_or_missed() -> None:
    def measured(ratio: float, **ours: float) -> dict[str, object]:
        return {"ratio": {"wall": {"median": ratio}}, "ours": ours}

    assert gpu_benchmark.judged({"images": measured(2.6, part_of_peak=0.44), "texts": measured(2.4)}) == {
        "images: 2.6 times as fast as published, aim 2.5": True,
        "images: 0.44 of the peak, aim 0.45": False,
        "texts: 2.4 times as fast as published, aim 2.5": False,
        "texts: an unknown part of the peak, aim 0.45": False,
    }


@pytest.mark.parametrize("kind", [*KINDS, "joined"])
def test_a_step_on_a_gpu_waits_for_nothing_there(kind: str) -> None:
    """The meta device takes the path of a GPU. It has no numbers, so whatever asks for one fails."""
    predict.operations(PretrainTask(outline(CONFIG), ObjectiveConfig()), batch(kind).to("meta"))


@pytest.mark.parametrize("name", ["ours", "plain"])
@pytest.mark.parametrize("kind", ["images", "texts"])
def test_predicted_flops_are_those_of_a_step_with_numbers(kind: str, name: str) -> None:
    """Only the scores of fused attention are computed once more on a GPU, in its backward pass."""

    def task(model):
        return PlainTask(model) if name == "plain" else PretrainTask(model, ObjectiveConfig(), padded)

    padded = ComputeConfig(packed_texts=False)
    with FlopCounterMode(display=False) as counter:
        losses = task(build_model(CONFIG, seed=3)).train()(batch(kind), torch.Generator())
        torch.stack(list(losses.values())).sum().backward()
    done = predict.operations(task(outline(CONFIG)), batch(kind).to("meta"))
    assert counter.get_total_flops() <= sum(each.flops for each in done) < 1.05 * counter.get_total_flops()
