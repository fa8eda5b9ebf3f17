"""The smallest distributed training: each rank adds a number, all get the sum, once every fraction of a second.

Usage: allreduce.py STEPS SECONDS_A_STEP. Prints one line a step.
"""

import datetime
import sys
import time

import torch
import torch.distributed as dist


def main(steps: int, seconds: float) -> None:
    """All-reduce `steps` times and check each sum."""
    # Short, so that a rank whose peer died says so within the time of a test.
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=20))
    rank, world = dist.get_rank(), dist.get_world_size()
    for step in range(steps):
        value = torch.tensor([float(rank + 1)])
        dist.all_reduce(value)
        if value.item() != world * (world + 1) / 2:
            raise SystemExit(f"wrong sum {value.item()} of {world} ranks")
        print(f"step={step} world={world} rank={rank} sum={value.item():g}", flush=True)
        time.sleep(seconds)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
