"""What metrics for Prometheus cost a training process and its launcher: time, as a share of steps, and memory.

    python -m benchmarks.metrics                 minutes: steps of the demo model take 0.4 s on two idle cores
    python -m benchmarks.metrics --steps 400     the same with more steps of the real run

- **A real run**: the demo model is pre-trained, in one process, on the tiny demo world. Blocks of `--log-every` steps
  whose metrics are kept take turns with blocks whose metrics are not. "inside the sink" is the time that handling
  events took, as a share of the time of the blocks with metrics. "alternating" compares the medians of both kinds of
  blocks. It holds all else that metrics may slow down, and the noise of the machine, so only a long run says much.
- **Handling**: the time of one event of each kind, as a training process of four kinds of batches emits it.
- **Memory**: what the resident memory of a process grows by. A training process makes its sink and handles events. A
  launcher opens its endpoint, runs two such processes, and answers scrapes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from cclm.events import Event, Interval, Journal, PhaseChanged, Sink, StepDone, Worked
from cclm.launch_contract import METRICS_FOLDER

ROOT = Path(__file__).parents[1]
CONFIG = "configs/demo/pretrain.yaml"
KINDS = ("images", "regions", "images_mono", "texts")


def resident() -> int:
    """Bytes of memory of this process that are in use, files mapped included (Linux)."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def worked(scale: int) -> Worked:
    """Totals of a process that has four kinds of batches."""
    counts = {kind: 64 * scale for kind in KINDS}
    return Worked(
        images=counts,
        texts=counts,
        real_tokens=9000 * scale,
        computed_tokens=16000 * scale,
        seconds_by_part={"data": 0.1 * scale, "compute": 0.3 * scale, "optimizer": 0.05 * scale, "between": 0.01},
        records_read=counts,
        records_skipped={kind: {"image": scale, "json": scale} for kind in KINDS},
        device_bytes={"allocated": 10**9, "reserved": 2 * 10**9, "peak": 2 * 10**9},
    )


def interval(step: int) -> Interval:
    """Of the same training, with its 14 losses."""
    losses = {
        f"{kind}/{loss}": 1.0 / (step + 1)
        for kind in KINDS
        for loss in ("loss_itc", "loss_itm", "loss_mlm", *(("loss_bbox", "loss_giou") if kind == "regions" else ()))
    }
    each = dict.fromkeys(KINDS, 1.0)
    return Interval(step, 10**6, losses, 1e-4, each, {"temperature": 0.07}, 100.0, 300.0, 4.0, {}, 3e4, each)


def measure_process(out: Path) -> None:
    """Handling and memory of one training process; METRICS_FOLDER is set."""
    import torch  # noqa: F401  # as a training process has it

    import cclm.metrics.report  # noqa: F401
    from cclm.metrics.prometheus import sink_of_process

    before = resident()
    sink = sink_of_process()
    assert sink is not None
    events: dict[str, Callable[[int], Event]] = {
        "StepDone": StepDone,
        "Interval": interval,
        "Worked": worked,
        "PhaseChanged": lambda step: PhaseChanged("training"),
    }
    microseconds = {}
    for name, make in events.items():
        made = [make(step) for step in range(2000)]
        rounds = []
        for start in range(0, len(made), 200):
            began = time.perf_counter()
            for event in made[start : start + 200]:
                sink.handle(event)
            rounds.append((time.perf_counter() - began) / 200 * 1e6)
        microseconds[name] = statistics.median(rounds)
        del made
    out.write_text(json.dumps({"microseconds": microseconds, "bytes": resident() - before}))


def measure_launcher(out: Path) -> None:
    """Memory of a launcher, and the time of a scrape; its two training processes measure themselves."""
    import socket

    import cclm.launch.agent  # noqa: F401  # as a launcher has it
    from cclm.launch.metrics_sink import serving_metrics

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = resident()
    with serving_metrics(port, Journal()):
        for rank in range(2):
            child = {**os.environ, "LOCAL_RANK": str(rank)}
            subprocess.run(command("process", out.with_name(f"rank{rank}")), env=child, check=True)
        seconds = []
        for _ in range(50):
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                size = len(answer.read())
            seconds.append(time.perf_counter() - began)
        grown = resident() - before
    process = json.loads(out.with_name("rank0").read_text())
    launcher = {"bytes": grown, "seconds": statistics.median(seconds), "size": size}
    out.write_text(json.dumps({"process": process, "launcher": launcher}))


class TakingTurns:
    """A sink that passes events on in every second block of steps only, and measures how long that takes."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._began = 0.0
        self._spent = 0.0
        self.blocks: list[tuple[bool, float, float]] = []
        """Whether metrics were kept, seconds of the block, seconds in the sink."""

    def handle(self, event: Event) -> None:
        now = time.perf_counter()
        is_kept = len(self.blocks) % 2 == 0
        if is_kept:
            self._sink.handle(event)
            self._spent += time.perf_counter() - now
        if isinstance(event, Interval):
            end = time.perf_counter()
            if self._began:
                self.blocks.append((is_kept, end - self._began, self._spent))
            self._began, self._spent = end, 0.0


def measure_run(out: Path, steps: int, log_every: int) -> None:
    """A real training in this process, in a folder that has the demo world."""
    import cclm.metrics.report
    from cclm.cli.main import main
    from cclm.metrics.prometheus import sink_of_process

    real = sink_of_process()
    assert real is not None
    turns = TakingTurns(real)
    cclm.metrics.report.sink_of_process = lambda: turns  # type: ignore[assignment, return-value]
    text, changes = re.subn(
        r"max_steps: 900\n  log_every: 50", f"max_steps: {steps}\n  log_every: {log_every}", Path(CONFIG).read_text()
    )
    assert changes == 1
    text = re.sub(r"\nevaluation:\n(  .*\n)+", "\n", text)  # takes longer than the steps, and is not what is measured
    Path(CONFIG).write_text(text)
    sys.argv = ["cclm", "pretrain", CONFIG]
    try:
        main()
    finally:
        out.write_text(json.dumps({"blocks": turns.blocks}))


def command(part: str, out: Path, *words: object) -> list[str]:
    """The command line of a part, which is a process of its own."""
    return [sys.executable, "-m", "benchmarks.metrics", "--part", part, "--out", str(out), *map(str, words)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of the real run (default 200)")
    parser.add_argument("--log-every", type=int, default=10, help="steps of a logging interval (default 10)")
    parser.add_argument("--part", choices=("run", "process", "launcher"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps < 5 * args.log_every:
        parser.error(f"--steps {args.steps}: at least five intervals of {args.log_every} steps are needed")
    if args.part == "run":
        measure_run(args.out, args.steps, args.log_every)
    elif args.part == "process":
        measure_process(args.out)
    elif args.part == "launcher":
        measure_launcher(args.out)
    else:
        measure_all(args.steps, args.log_every)


def measure_all(steps: int, log_every: int) -> None:
    """Measure everything and print the table."""
    with tempfile.TemporaryDirectory(prefix="cclm-benchmark-") as name:
        folder = Path(name)
        (folder / "metrics").mkdir()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        environment.pop(METRICS_FOLDER, None)
        subprocess.run(command("launcher", folder / "launcher"), env=environment, check=True)
        small = json.loads((folder / "launcher").read_text())
        shutil.copytree(ROOT / "configs", folder / "configs")
        world = [sys.executable, "-m", "cclm", "demo", "demo_world", "--tiny"]
        subprocess.run(world, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        environment[METRICS_FOLDER] = str(folder / "metrics")
        words = command("run", folder / "run", "--steps", steps, "--log-every", log_every)
        subprocess.run(words, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        blocks = json.loads((folder / "run").read_text())["blocks"]
    kept = [seconds for is_kept, seconds, _ in blocks if is_kept]
    others = [seconds for is_kept, seconds, _ in blocks if not is_kept]
    spent = sum(inside for _, _, inside in blocks)
    ratio = statistics.median(kept) / statistics.median(others) - 1
    spread = statistics.stdev(others) / statistics.mean(others)
    rows = [
        ("step of the demo model", f"{statistics.median([*kept, *others]) / log_every:.2f} s"),
        ("inside the sink, share of step time", f"{spent / sum(kept):.4%}"),
        ("alternating: blocks with metrics are slower by", f"{ratio:.1%} (one block differs by {spread:.1%})"),
        *((f"one {event}", f"{value:.0f} us") for event, value in small["process"]["microseconds"].items()),
        ("memory of a training process", f"{small['process']['bytes'] / 1e6:.1f} MB"),
        ("memory of the launcher", f"{small['launcher']['bytes'] / 1e6:.1f} MB"),
        ("a scrape", f"{small['launcher']['seconds'] * 1e3:.0f} ms, {small['launcher']['size'] / 1e3:.0f} kB"),
    ]
    width = max(len(title) for title, _ in rows)
    for title, number in rows:
        print(f"{title:<{width}}  {number}")


if __name__ == "__main__":
    main()
