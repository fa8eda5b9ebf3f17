"""Is /dev/shm large enough for the loader processes? Containers have 64 MB of it unless they ask for more."""

from __future__ import annotations

import os
from pathlib import Path

from cclm.errors import UserError

SHARED_MEMORY = Path("/dev/shm")


def check_shared_memory(needed: int, processes: int, folder: Path = SHARED_MEMORY) -> str:
    """The shared memory that loader processes allocate is free.

    Args:
        needed: bytes, for all training processes of this machine.
        processes: training processes of this machine.
        folder: where shared memory is mounted. A system without it is not checked.

    Raises:
        UserError: there is less.
    """
    try:
        state = os.statvfs(folder)
    except OSError:
        return ""
    free = state.f_bavail * state.f_frsize
    if free < needed:
        raise UserError(
            f"{folder} has {free / 2**20:,.0f} MiB left, but the loader processes of this machine's {processes} "
            f"training processes need {needed / 2**20:,.0f} MiB for images; mount a larger one (in Kubernetes an "
            "emptyDir with medium: Memory), or lower num_workers (0: none is needed) or the batch sizes"
        )
    return ""
