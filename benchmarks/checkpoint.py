"""What saving costs: how long training waits, how much slower it is during a save, how fast a copy is sent and read.

    python -m benchmarks.checkpoint                          300 MB and 2 GB, on the local disk
    python -m benchmarks.checkpoint --store s3               also to SeaweedFS, started for it (hdfs: HDFS)
    python -m benchmarks.checkpoint --url s3://bucket/x      also to a store of yours

About eight minutes with both sizes and a store.

Compared in one run, on the same model and optimizer: this project, `torch.save`, and `async_save` of
torch.distributed.checkpoint (with a thread, which is its default). Sizes are those of the model and AdamW's state
together. Files of `torch.save` are synced before they count as durable, as those of the others are.

The loop is small operations on one thread: it needs one core and the interpreter, as the dispatch of GPU kernels does.
Its speed during a save is compared with that of the seconds before and after. "nothing saved" is the same without a
save: it shows the noise of the machine. "others" is how many cores were used by processes that are not part of the
benchmark. If it is not near 0, or if there is no core to spare, the other figures are too high.

A store that is started here is kept on the last core, since a real one has machines of its own. Saves, plain puts of
one file of the same size beside the loop, and plain puts alone take turns. A process of the same priority as the one
that sends checkpoints makes the puts, so that both have the same machine.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from cclm import storage
from cclm.checkpoints.writer import give_way
from cclm.config.output import CheckpointConfig
from cclm.events import Journal
from cclm.training.saving import Saving

try:
    from benchmarks.input_stores import Place, started
    from benchmarks.machine import seconds_of_others
except ModuleNotFoundError as error:
    if error.name != "benchmarks":
        raise
    raise SystemExit("start it from the folder of the repository, as: python -m benchmarks.checkpoint") from None

_GLANCE = 0.05
"""Seconds between looks whether a save is over."""


@dataclass(frozen=True)
class Output:
    """Places of a run."""

    output_dir: str
    output_hdfs: str | None = None
    checkpoints: CheckpointConfig = CheckpointConfig(keep_last=1)


@dataclass
class Cost:
    """What the saves of one kind cost: one entry a save, in seconds unless said otherwise."""

    held: list[float] = field(default_factory=list)
    """From the call until it returns."""
    whole: list[float] = field(default_factory=list)
    """From the call until the checkpoint is durable and older ones are deleted."""
    slower: list[float] = field(default_factory=list)
    """Part by which the loop is slower during the save."""
    sent: list[float] = field(default_factory=list)
    """As `written`, without files and checksums on the local disk."""
    others: list[float] = field(default_factory=list)
    """Cores that other processes used during the save, on average."""
    written: list[float] = field(default_factory=list)
    """From the call until the manifest is there."""


class Loop:
    """Steps that keep the interpreter busy, as the dispatch of GPU kernels does: small operations on one thread."""

    def __init__(self) -> None:
        self._state = torch.randn(64, 64)

    def rate(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Steps a second, measured for so long or until something ends; 0 if it has ended before the first step."""
        began, steps = time.perf_counter(), 0
        looked = began
        while (now := time.perf_counter()) - began < seconds:
            if now - looked > _GLANCE:
                looked = now
                if until():
                    break
            for _ in range(200):
                self._state = torch.tanh(self._state + 0.1)
            steps += 1
        return steps / (now - began)


def make(megabytes: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its AdamW, together of that size, with as many tensors as a transformer has."""
    width = int((megabytes * 1e6 / 4 / 3 / 96) ** 0.5)
    model = nn.ModuleList(nn.Linear(width, width) for _ in range(96))
    named = list(model.named_parameters())
    optimizer = torch.optim.AdamW([{"params": [p for _, p in named], "names": [n for n, _ in named]}], fused=True)
    for _, parameter in named:
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    return model, optimizer


class Meter:
    """Compares the loop's speed during a save with that before and after."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._before: float | None = None

    def run(self, cost: Cost, begin: Callable[[], Callable[[], bool]]) -> None:
        """Measure one save. `begin` starts it and returns a function that says whether it is over."""
        before = self._before or self._loop.rate(1.0)
        others = seconds_of_others()
        began = time.perf_counter()
        is_over = begin()
        cost.held.append(time.perf_counter() - began)
        meanwhile = None if is_over() else self._loop.rate(300.0, until=is_over)
        while not is_over():
            time.sleep(0.001)
        cost.whole.append(time.perf_counter() - began)
        self._before = self._loop.rate(1.0)
        cost.others.append((seconds_of_others() - others) / (time.perf_counter() - began))
        if meanwhile is not None:
            cost.slower.append(1 - 2 * meanwhile / (before + self._before))


def over_in(seconds: float) -> Callable[[], bool]:
    """As a save that does nothing and is over after so long."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= end


@contextmanager
def ours(model: nn.Module, optimizer: torch.optim.Optimizer, place: str, meter: Meter, cost: Cost):
    """A function that makes and measures the checkpoint of a step."""
    saving = Saving(Output(place), Journal())
    saving.find_start("never")

    def save(step: int) -> None:
        def begin() -> Callable[[], bool]:
            saving.save(step, model, optimizer, {})

            def is_over() -> bool:
                saving.poll()
                return saving.committed == step

            return is_over

        meter.run(cost, begin)
        cost.sent.append(saving.last.seconds - saving.last.staging_seconds)
        cost.written.append(saving.last.seconds)

    with saving:
        yield save


def with_torch_save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Callable[[], bool]:
    """Save by `torch.save`; the function that is returned syncs the file."""
    path = folder / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)

    def is_over() -> bool:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return True

    return is_over


@contextmanager
def with_async_save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path):
    """A function that starts a save of torch.distributed.checkpoint."""
    stager = dcp.staging.DefaultStager(dcp.staging.StagingOptions(False, False, False, False))

    def begin() -> Callable[[], bool]:
        shutil.rmtree(folder / "dcp", ignore_errors=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        return dcp.async_save(state, checkpoint_id=folder / "dcp", async_stager=stager, no_dist=True).done

    with closing(stager):
        yield begin


# ---------------------------------------------------------------------------------------------------------- plain puts


class Putter:
    """A process that copies one file to a store on demand."""

    def __init__(self, source: Path, url: str) -> None:
        command = [sys.executable, "-m", "benchmarks.checkpoint", "--put", str(source), url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.seconds: list[float] = []
        self.put()

    def begin(self) -> Callable[[], bool]:
        """Start a copy; returns a function that says whether it is over."""
        self._process.stdin.write(b"go\n")
        answered = False

        def is_over() -> bool:
            nonlocal answered
            if not answered and select.select([self._process.stdout], [], [], 0)[0]:
                answered = True
                self.seconds.append(float(self._process.stdout.readline()))
            return answered

        return is_over

    def put(self) -> float:
        """Seconds of a copy, made while this process waits."""
        is_over = self.begin()
        while not is_over():
            time.sleep(0.002)
        return self.seconds.pop()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve_puts(source: str, url: str) -> None:
    """What the process of a Putter does: for each line that it reads it copies the file and prints the seconds."""
    give_way()
    for number, _ in enumerate(sys.stdin):
        began = time.perf_counter()
        storage.put_file(source, f"{url}-{number}")
        print(time.perf_counter() - began, flush=True)
        storage.delete(f"{url}-{number - 1}")  # not replaced: that costs more in some stores
    storage.delete(f"{url}-{number}")


def write_noise(path: Path, size: int) -> None:
    """A file of `size` random bytes."""
    with path.open("wb") as file:
        for _ in range(size // 2**20):
            file.write(torch.randint(256, (2**20,), dtype=torch.uint8).numpy())
        os.fsync(file.fileno())


# ------------------------------------------------------------------------------------------------------------- tables


def seconds_to_resume(model: nn.Module, optimizer: torch.optim.Optimizer, place: str) -> float:
    """How long it takes to find, verify and load the newest checkpoint."""
    began = time.perf_counter()
    saving = Saving(Output(place), Journal())
    start = saving.find_start("auto")
    saving.restore(start, model, optimizer)
    return time.perf_counter() - began


def size_of(model: nn.Module) -> int:
    """Bytes of a model and its AdamW."""
    return 3 * sum(parameter.numel() * 4 for parameter in model.parameters())


def on_the_disk(model: nn.Module, optimizer: torch.optim.Optimizer, saves: int, folder: Path, meter: Meter) -> None:
    """Print the rows of saves to a local folder."""
    rows = {name: Cost() for name in ("nothing saved", "torch.save", "dcp.async_save", "cclm")}
    place = str(folder / "run")
    for _ in range(saves):
        meter.run(rows["nothing saved"], lambda: over_in(1.0))
    rows["nothing saved"].held = rows["nothing saved"].whole = []
    show("nothing saved", rows["nothing saved"])
    for _ in range(saves):
        meter.run(rows["torch.save"], lambda: with_torch_save(model, optimizer, folder))
    show("torch.save", rows["torch.save"])
    (folder / "checkpoint.pt").unlink()
    with with_async_save(model, optimizer, folder) as begin:
        for _ in range(saves):
            meter.run(rows["dcp.async_save"], begin)
    show("dcp.async_save", rows["dcp.async_save"])
    shutil.rmtree(folder / "dcp")
    with ours(model, optimizer, place, meter, rows["cclm"]) as save:
        for step in range(1, saves + 1):
            save(step)
    show("cclm", rows["cclm"])
    minutes = CheckpointConfig().save_minutes
    part = later(rows["cclm"].held) / (60 * minutes)
    print(f"held up for {100 * part:.3f} % of the time, at the default of a checkpoint every {minutes:g} minutes")
    print(f"resume from the local disk: {seconds_to_resume(model, optimizer, place):.2f} s", flush=True)
    shutil.rmtree(place)


def to_a_store(
    model: nn.Module, optimizer: torch.optim.Optimizer, saves: int, folder: Path, meter: Meter, url: str
) -> None:
    """Print what sending costs: the loop, and in comparison with plain puts."""
    scheme, place, plain = url.partition("://")[0], storage.join(url, "run"), storage.join(url, "plain")
    size = size_of(model)
    source = folder / "plain"
    write_noise(source, size)
    saved, beside, alone = Cost(), Cost(), []
    with closing(Putter(source, plain)) as putter, ours(model, optimizer, place, meter, saved) as save:
        for step in range(1, saves + 1):
            save(step)
            meter.run(beside, putter.begin)
            alone.append(putter.put())
    show(f"cclm to {scheme}", saved)
    beside.held = []
    show("a plain put", beside)
    put = size / statistics.median(putter.seconds)
    print(f"a plain put to {scheme} beside the loop: {put / 1e6:.0f} MB/s; "
          f"nothing beside it: {size / statistics.median(alone) / 1e6:.0f} MB/s")  # fmt: skip
    for what, seconds in (("sending a save", saved.sent), ("a whole save, files and checksums", saved.written)):
        ratios = [one / other for one, other in zip(putter.seconds[1:], seconds[1:], strict=True)]
        rate = size / statistics.median(seconds[1:])
        print(f"{what}: {rate / 1e6:.0f} MB/s, {100 * statistics.median(ratios):.0f} % of the put after it (median)")
    print(f"resume from there: {seconds_to_resume(model, optimizer, place):.2f} s", flush=True)
    source.unlink()
    storage.delete_folder(place)


def later(values: list[float]) -> float:
    """Median of all but the first, which also allocates memory."""
    return statistics.median(values[1:])


def show(name: str, cost: Cost) -> None:
    slower = statistics.median(cost.slower) if cost.slower else 0.0
    cells = [
        f"{cost.held[0]:.3f} s" if cost.held else "",
        f"{later(cost.held):.3f} s" if cost.held else "",
        f"{later(cost.whole):.2f} s" if cost.whole else "",
        f"{100 * slower:.1f} %" if cost.slower else "",
        f"{100 * min(cost.slower):.1f} .. {100 * max(cost.slower):.1f} %" if cost.slower else "",
        f"{statistics.mean(cost.others):.2f}",
    ]
    print(f"{name:20}" + "".join(f"{text:>16}" for text in cells), flush=True)


def compare(megabytes: int, url: str | None, folder: Path, saves: int, local: bool) -> None:
    """Print a table for one size."""
    model, optimizer = make(megabytes)
    loop = Loop()
    loop.rate(1.0)
    print(f"\n{size_of(model) / 1e6:.0f} MB (model and optimizer), {saves} saves each")
    names = ("held up, first", "later", "until durable", "loop slower by", "(of all)", "others, cores")
    print(" " * 20 + "".join(f"{name:>16}" for name in names))
    if local:
        on_the_disk(model, optimizer, saves, folder, Meter(loop))
    if url is not None:
        to_a_store(model, optimizer, saves, folder, Meter(loop), storage.join(url, str(megabytes)))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.checkpoint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 2000], metavar="MB")
    parser.add_argument("--saves", type=int, help="of each kind; 8, and 3 from 1 GB on, if unset")
    parser.add_argument("--store", choices=["s3", "hdfs"], help="a store to start, and to send to as well")
    parser.add_argument("--url", help="a folder on a store that runs, to send to as well")
    parser.add_argument("--only-store", action="store_true", help="leave the rows of the local disk out")
    parser.add_argument("--folder", help="local folder; the system's temporary one if unset")
    parser.add_argument("--put", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.put:
        serve_puts(*args.put)
        return
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        place = Path(folder)
        cores = {max(os.sched_getaffinity(0))}
        store = started(args.store, place, cores) if args.store else nullcontext(Place(args.url, {}))
        with store as target:
            os.environ.update(target.environment)
            storage.reopen()
            for size in args.sizes:
                compare(size, target.url, place, args.saves or (8 if size < 1000 else 3), not args.only_store)


if __name__ == "__main__":
    main()
