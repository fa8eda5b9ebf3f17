"""What a training process finds out about its group from the environment, before it trains.

torchrun (`cclm launch`) sets RANK, WORLD_SIZE, MASTER_ADDR and so on. Slurm's `srun` starts the tasks of a step without
them, but with variables of its own that say the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping

from cclm.errors import UserError

_FIRST_PORT, _PORTS = 20000, 12000
"""Ports that are below those that Linux gives to outgoing connections."""


def understand(environment: MutableMapping[str, str]) -> None:
    """Complete and check the variables of the process group.

    Raises:
        UserError: a variable is no number, or some are missing.
    """
    if "WORLD_SIZE" not in environment:
        environment.update(variables_of_srun(environment))
    processes = _number(environment, "WORLD_SIZE", "1")
    rank = _number(environment, "RANK", "0")
    _number(environment, "LOCAL_RANK", "0")
    if processes < 1 or not 0 <= rank < max(1, processes):
        raise UserError(f"WORLD_SIZE={processes} and RANK={rank} do not fit together; unset both, or use cclm launch")
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if processes > 1 and missing:
        are_not_set = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
        raise UserError(
            f"WORLD_SIZE={processes} announces several processes, but {are_not_set}; start them by "
            f"cclm launch --nproc-per-node {processes} -- COMMAND, or unset WORLD_SIZE"
        )


def variables_of_srun(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables for a task that `srun` started beside others; {} for any other process.

    A batch script of `sbatch` is one process, however many tasks it asked for, so what counts are the variables of a
    step, which only `srun` sets.

    Raises:
        UserError: Slurm's variables do not say which task this is.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    if tasks is None and ("SLURM_STEP_ID" in environment or "SLURM_STEPID" in environment):
        tasks = environment.get("SLURM_NTASKS")
    if tasks in (None, "1"):
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    if "SLURM_PROCID" not in environment or "SLURM_LOCALID" not in environment or not nodes:
        raise UserError(
            f"srun started {tasks} tasks, but SLURM_PROCID, SLURM_LOCALID or SLURM_STEP_NODELIST is not set; start one "
            "task a node: srun --ntasks-per-node=1 cclm launch --nproc-per-node N -- COMMAND"
        )
    return {
        "WORLD_SIZE": str(tasks),
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(_tasks_of_node(environment)),
        "MASTER_ADDR": environment.get("MASTER_ADDR", first_host(nodes)),
        "MASTER_PORT": environment.get("MASTER_PORT", str(_port(environment))),
    }


def first_host(nodes: str) -> str:
    """The first host of Slurm's list of nodes: `node[03-05,9],other` -> `node03`."""
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    return "" if found is None else "".join(part or "" for part in found.groups())


def _tasks_of_node(environment: Mapping[str, str]) -> int:
    """Tasks of this step on this node, from a list such as `2(x3),1`; 1 where it is not known."""
    counts: list[int] = []
    for part in environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        counts += [int(found[1])] * int(found[2] or 1) if found else []
    node = environment.get("SLURM_NODEID", "0")
    return counts[int(node)] if node.isdigit() and int(node) < len(counts) else 1


def _port(environment: Mapping[str, str]) -> int:
    """A port that all tasks of a step agree on, and that steps beside it do not use."""
    digits = [re.sub(r"\D", "", environment.get(name, "")) or "0" for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    job, step = map(int, digits)
    return _FIRST_PORT + (job * 31 + step) % _PORTS


def _number(environment: Mapping[str, str], name: str, default: str) -> int:
    text = environment.get(name, default)
    if not re.fullmatch(r"\d+", text):
        raise UserError(f"{name}={text} is not a number; unset it, or start the processes by cclm launch")
    return int(text)
