"""Trains a small task on two processes and kills one of them, or the writer, at random moments, over and over.

    python -m tests.integration.kill_ranks FOLDER FIRST_SEED NUMBER_OF_SEEDS [REMOTE]

A program of its own, so that it can fork: processes that start with torch imported take milliseconds, not seconds.
Prints a line of JSON for each seed.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cclm import distributed, storage
from cclm.checkpoints.commit import whole_manifest
from cclm.checkpoints.manifest import folder_name
from cclm.checkpoints.retention import checkpoint_steps
from cclm.config.output import CheckpointConfig
from cclm.config.pretrain import TrainingConfig
from cclm.metrics.report import Report, open_journal
from cclm.training.loop import Run, fit
from cclm.training.plan import Plan
from cclm.training.saving import Saving
from tests.integration.run_output import Output
from tests.stores.server import free_ports

STEPS, SAVE_EVERY, KILLS = 40, 3, 3


@dataclass(frozen=True)
class Numbers:
    """One process's part of a batch."""

    images: Tensor
    """(B, 3, 2, 2)"""

    def to(self, device, non_blocking=False):
        return replace(self, images=self.images.to(device))


class Source:
    """Batch i is drawn from i and the rank alone."""

    num_records, read, skipped = 1000, 0, {}

    def batches(self, start):
        while True:
            place = 2 * start + distributed.rank()
            yield Numbers(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(place)))
            start += 1

    def refuse_too_many_broken(self, now, before):
        pass


class Task(nn.Module):
    """Two layers and dropout."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(12, 500), nn.Dropout(0.1), nn.Linear(500, 4))

    def forward(self, batch, generator):
        time.sleep(0.004)
        return {"loss_size": self.layers(batch.images.flatten(1)).square().mean()}


def train(output: Output) -> None:
    """What one process does; the environment says which one it is."""
    device = distributed.initialize()
    torch.set_num_threads(1)
    journal = open_journal(is_first=distributed.rank() == 0)
    saving = Saving(output, journal)
    start = saving.find_start("auto")
    begin = 0 if start is None else start.step
    task = Task()
    names = [name for name, _ in task.named_parameters()]
    optimizer = torch.optim.AdamW([{"params": [*task.parameters()], "names": names, "lr": 0.01}])
    saving.restore(start, task, optimizer)
    with contextlib.redirect_stdout(None):
        report = Report(journal, saving.folder, is_first=distributed.rank() == 0, total=STEPS, start=begin)
        report.forget_after(begin)
        run = Run(
            task=distributed.wrap(task, device), loss_weights={"loss_size": 1.0}, optimizer=optimizer,
            plan=Plan(seed=3), sources={"images": Source()},
            training=TrainingConfig(log_every=1, save_every=SAVE_EVERY), checkpoints=output.checkpoints,
            clip_grad_norm=1.0, total_steps=STEPS, warmup_steps=3, seed=3, device=device, journal=journal,
            save=lambda done: saving.save(done, task, optimizer, {}), evaluate=None,
        )  # fmt: skip
        with saving:
            fit(run, begin)
    distributed.shutdown()


def start(output: Output) -> list[int]:
    """Fork both processes; returns their ids."""
    (port,) = free_ports(1)
    children = []
    for rank in range(2):
        if (child := os.fork()) == 0:
            code = 1
            try:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                train(output)
                code = 0
            except BaseException as error:
                print(f"rank {rank}: {type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)
            finally:
                os._exit(code)
        children.append(child)
    return children


def wait(children: list[int]) -> bool:
    """Wait for all; when one fails the others are killed, as torchrun does. Whether all succeeded."""
    alive, is_good = set(children), True
    while alive:
        for child in list(alive):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                alive.remove(child)
                if status != 0:
                    is_good = False
                    for other in alive:
                        os.kill(other, signal.SIGKILL)
        time.sleep(0.005)
    return is_good


def writer_of(process: int) -> int | None:
    """The process that writes the checkpoints of a rank."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{process}/task/{process}/children").read_text().split()[0])
    return None


def last_step(folder: Path) -> int:
    """Steps done, as far as the metrics say."""
    with contextlib.suppress(OSError, IndexError, ValueError, KeyError):
        return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    return 0


def newest_committed(places: list[str]) -> int:
    """Step of the newest checkpoint that is whole in one of the places; 0: there is none."""
    for step in sorted({step for place in places for step in checkpoint_steps(place)}, reverse=True):
        for place in places:
            with contextlib.suppress(Exception):
                whole_manifest(storage.join(place, folder_name(step)))
                return step
    return 0


def one_seed(folder: Path, seed: int, remote: str | None) -> dict:
    """Kill and start again until the run is through."""
    drawn = random.Random(seed)
    local = folder / str(seed)
    far = None if remote is None else storage.join(remote, str(seed))
    output = Output(str(local), far, CheckpointConfig(keep_last=2, save_minutes=None))
    places = [place for place in (str(local), far) if place]
    kills, lost = [], []
    while True:
        children = start(output)
        if len(kills) < KILLS:
            time.sleep(drawn.uniform(0.05, 1.5))
            victim = drawn.choice(["rank 0", "rank 1", "writer"])
            process = writer_of(children[0]) if victim == "writer" else children[int(victim[-1])]
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    kills.append(victim)
        is_through = wait(children)
        if is_through:
            return {"seed": seed, "kills": kills, "lost": lost, "steps": checkpoint_steps(str(local))}
        lost.append(max(0, last_step(local) - newest_committed(places)))


def main() -> None:
    """Without kills, for comparison, then seed by seed."""
    folder, first, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    remote = sys.argv[4] if len(sys.argv) > 4 else None
    whole = Output(str(folder / "whole"), None, CheckpointConfig(save_minutes=None))
    assert wait(start(whole))
    for seed in range(first, first + number):
        print(json.dumps(one_seed(folder, seed, remote)), flush=True)


if __name__ == "__main__":
    main()
