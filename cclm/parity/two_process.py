"""Items of the two-process case. torchrun starts this module twice, and rank 0 writes the items as JSON.

Rank 0 takes the batch of `inputs`, rank 1 that of `two_process_inputs`. Losses are those of each rank. Gradient norms
are those after averaging over ranks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from cclm import distributed
from cclm.config.pretrain import ObjectiveConfig
from cclm.parity.comparison import Item
from cclm.parity.golden import Golden, read_golden
from cclm.parity.gradients import gradient_norms, watched_names
from cclm.parity.pretraining import image_batch
from cclm.tasks.pretraining_task import PretrainTask

PREFIX = "extra.json/two_process"
WATCHED = (
    "temp",
    "text_proj.weight",
    "vision_proj.weight",
    "text_encoder.bert.encoder.layer.0.attention.self.query.weight",
)


def two_process_items(golden: Golden) -> dict[str, Item]:
    """Start two processes on this machine and collect their numbers.

    Raises:
        RuntimeError: they failed; the message holds the first error that they printed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "items.json"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command = [*launcher, "-m", "cclm.parity.two_process", str(golden.folder), str(output)]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if re.search(r"(Error|error): ", line)]
            raise RuntimeError(f"the two-process case failed: {lines[0] if lines else done.stderr[-200:]}")
        items: dict[str, Item] = json.loads(output.read_text())
        return items


def _compute(golden: Golden) -> dict[str, Item]:
    """All items, the same on both processes."""
    rank = distributed.rank()
    device = torch.device("cpu")
    task = distributed.wrap(PretrainTask(golden.model(), ObjectiveConfig()).eval(), device)
    batch = image_batch(golden, "inputs" if rank == 0 else "two_process_inputs")
    losses = task(batch, torch.Generator().manual_seed(0))
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    mine = {f"{PREFIX}/rank{rank}/{name}": loss.item() for name, loss in losses.items()}
    items: dict[str, Item] = {name: item for part in distributed.gather_objects(mine) for name, item in part.items()}
    watched = watched_names(golden.expected(), f"{PREFIX}/grad_norm_averaged", WATCHED)
    norms = gradient_norms(golden, distributed.unwrap(task), finetuned=False, watched=watched)
    for name, value in norms.items():
        items[f"{PREFIX}/{name.replace('grad_norm', 'grad_norm_averaged', 1)}"] = value
    return items


def main(folder: str, output: str) -> None:
    """Run one of the two processes. Rank 0 writes the items to the file `output`."""
    distributed.initialize()
    items = _compute(read_golden(folder))
    if distributed.rank() == 0:
        Path(output).write_text(json.dumps(items))
    distributed.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
