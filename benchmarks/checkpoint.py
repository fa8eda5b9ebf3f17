"""What saving costs: how long training is held up, how much slower it is meanwhile, how fast a copy is sent and read.

    python benchmarks/checkpoint.py                                   300 MB and 2 GB, on the local disk
    python benchmarks/checkpoint.py --sizes 300 --url s3://bucket/x   also to a store

Side by side in one process, on the same model and optimizer: this project, `torch.save`, and `async_save` of
torch.distributed.checkpoint (its thread, which is its default). Sizes are of model and AdamW's state together.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from cclm import storage
from cclm.config_output import CheckpointConfig
from cclm.training.saving import Saving

SAVES = 4
"""Saves of each kind; the first is told apart, since memory is paid for there."""


@dataclass(frozen=True)
class Output:
    """Places of a run."""

    output_dir: str
    output_hdfs: str | None = None
    checkpoints: CheckpointConfig = CheckpointConfig(keep_last=1)


@dataclass(frozen=True)
class Cost:
    """Of the saves of one kind, in seconds."""

    first: float
    """Held up by the first save."""
    later: float
    """Held up by a later one, median."""
    whole: float
    """From the call until the checkpoint is durable, median of the later ones."""
    slower: float
    """Part by which the loop is slower while a save is under way."""
    sending: float = 0.0
    """Of the last save, without the local files and checksums before."""


class Loop:
    """Steps that keep the interpreter busy, as the dispatch of GPU kernels does: small operations on one thread."""

    def __init__(self) -> None:
        self._state = torch.randn(64, 64)

    def rate(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Steps a second, measured for so long or until something ends."""
        began, steps = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds and not until():
            for _ in range(200):
                self._state = torch.tanh(self._state + 0.1)
            steps += 1
        return steps / passed if passed else 0.0


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


def measure(save: Callable[[int], Callable[[], bool]], loop: Loop) -> Cost:
    """Costs of `save(step)`, which returns whether it is over, as a function."""
    held, whole, ratios = [], [], []
    for step in range(1, SAVES + 1):
        alone = loop.rate(1.0)
        began = time.perf_counter()
        is_over = save(step)
        held.append(time.perf_counter() - began)
        if not is_over():
            ratios.append(loop.rate(60.0, until=is_over) / alone)
        while not is_over():
            time.sleep(0.01)
        whole.append(time.perf_counter() - began)
    slower = 1 - statistics.median(ratios) if ratios else 0.0
    return Cost(held[0], statistics.median(held[1:]), statistics.median(whole[1:]), slower)


def ours(model: nn.Module, optimizer: torch.optim.Optimizer, place: str, loop: Loop) -> Cost:
    saving = Saving(Output(place), say=lambda _: None)
    saving.find_start("never")
    with saving:

        def save(step: int) -> Callable[[], bool]:
            saving.save(step, model, optimizer, {})

            def is_over() -> bool:
                saving.poll()
                return saving.committed == step

            return is_over

        cost = measure(save, loop)
        return replace(cost, sending=saving.last.seconds - saving.last.staging_seconds)


def with_torch_save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, loop: Loop) -> Cost:
    def save(step: int) -> Callable[[], bool]:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "checkpoint.pt")
        return lambda: True

    return measure(save, loop)


def with_async_save(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, loop: Loop) -> Cost:
    stager = dcp.staging.DefaultStager(dcp.staging.StagingOptions(False, False, False, False))

    def save(step: int) -> Callable[[], bool]:
        shutil.rmtree(folder / "dcp", ignore_errors=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        future = dcp.async_save(state, checkpoint_id=folder / "dcp", async_stager=stager, no_dist=True)
        return future.done

    with closing(stager):
        return measure(save, loop)


def rate_of_put(size: int, folder: Path, url: str) -> float:
    """Bytes a second of a plain copy of one file to a store, best of two."""
    source = folder / "plain"
    with source.open("wb") as file:
        for _ in range(size // 2**20):
            file.write(torch.randint(256, (2**20,), dtype=torch.uint8).numpy())
    rates = []
    for _ in range(2):
        began = time.perf_counter()
        storage.put_file(str(source), storage.join(url, "plain"))
        rates.append(source.stat().st_size / (time.perf_counter() - began))
    storage.delete(storage.join(url, "plain"))
    return max(rates)


def seconds_to_resume(model: nn.Module, optimizer: torch.optim.Optimizer, place: str) -> float:
    """Find, verify, load."""
    began = time.perf_counter()
    saving = Saving(Output(place), say=lambda _: None)
    start = saving.find_start("auto")
    saving.restore(start, model, optimizer)
    return time.perf_counter() - began


def compare(megabytes: int, url: str | None, folder: Path) -> None:
    """Print a table for one size."""
    model, optimizer = make(megabytes)
    size = 3 * sum(parameter.numel() * 4 for parameter in model.parameters())
    loop = Loop()
    loop.rate(1.0)
    print(f"\n{size / 1e6:.0f} MB (model and optimizer), {SAVES} saves each")
    print(f"{'':28}{'held up, first':>16}{'later':>10}{'until durable':>16}{'loop slower by':>16}")
    rows = {"torch.save": with_torch_save, "dcp.async_save": with_async_save}
    for name, run in rows.items():
        show(name, run(model, optimizer, folder, loop))
    place = str(folder / "run")
    show("cclm", ours(model, optimizer, place, loop))
    print(f"resume from the local disk: {seconds_to_resume(model, optimizer, place):.2f} s")
    shutil.rmtree(place)
    if url is not None:
        there = storage.join(url, f"run-{megabytes}")
        cost = ours(model, optimizer, there, loop)
        show(f"cclm to {url.partition('://')[0]}", cost)
        put = rate_of_put(size, folder, url)
        for what, seconds in (("sending a save", cost.sending), ("a whole save, files and checksums", cost.whole)):
            rate = size / seconds
            print(f"a plain put: {put / 1e6:.0f} MB/s; {what}: {rate / 1e6:.0f} MB/s, {100 * rate / put:.0f} %")
        print(f"resume from there: {seconds_to_resume(model, optimizer, there):.2f} s")
        storage.delete_folder(there)


def show(name: str, cost: Cost) -> None:
    print(
        f"{name:28}{cost.first:14.3f} s{cost.later:8.3f} s{cost.whole:14.2f} s{100 * cost.slower:14.1f} %", flush=True
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 2000], metavar="MB")
    parser.add_argument("--url", help="a folder on a store, to send to as well")
    parser.add_argument("--folder", help="local folder; the system's temporary one if unset")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            compare(size, args.url, Path(folder))


if __name__ == "__main__":
    main()
