"""Are the GPUs there that this machine should have, do they work with this PyTorch, and are they healthy?

Without a GPU that was promised, training would go on by the CPU, a hundred times slower, and nobody would be told.

torch says what it can use. `nvidia-smi`, which comes with the driver, says what the driver knows about each GPU's
memory. Neither makes a CUDA context here, so the launcher takes no memory of a GPU.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cclm.errors import NodeError, UserError

_FIELDS = (
    "index", "uuid", "name", "driver_version", "ecc.errors.uncorrected.volatile.total", "remapped_rows.pending",
    "remapped_rows.failure", "retired_pages.pending",
)  # fmt: skip
"""Of `nvidia-smi --help-query-gpu`, as drivers since R450 have them."""
_ACTION = "gpu_recovery_action"
"""Drivers since R565 have it."""
_NO_ACTION = ("none", "n/a", "[n/a]", "[not supported]")
_SMI_SECONDS = 60.0
"""With many GPUs, and without the driver's persistence mode, nvidia-smi may take half a minute."""
_LEAVE_OUT = 'to use the CPU, hide the GPUs with CUDA_VISIBLE_DEVICES=""'


@dataclass(frozen=True)
class PromisedGpus:
    """GPUs that this machine should have."""

    number: int | None
    """None where only their presence is known."""
    sign: str
    """Where that is written, for messages."""


@dataclass(frozen=True)
class TorchGpus:
    """What torch can use."""

    number: int
    problem: str
    """Why there is none; empty if there is one, and where torch does not say."""
    versions: str
    """Of CUDA and NCCL, for the log; empty for a torch without CUDA."""


def promised_gpus(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> PromisedGpus | None:
    """The GPUs that a scheduler or the machine itself promises; None if there is no sign of any, or if they are hidden.

    Args:
        devices: the folder of device files.
    """
    if environment.get("CUDA_VISIBLE_DEVICES", "unset") in ("", "-1"):
        return None
    # Device plugins name each GPU. "all" stands in many images, also where there is none.
    given = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    if given.lower() not in ("", "all", "void", "none") and not given.startswith("/"):
        names = {name for name in given.split(",") if name}
        # torch uses one slice of a partitioned GPU (MIG), however many there are.
        number = None if any(name.startswith("MIG-") for name in names) else len(names)
        return PromisedGpus(number, f"NVIDIA_VISIBLE_DEVICES={given}")
    files = [path for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    if files:
        return PromisedGpus(len(files), f"{len(files)} GPUs in {devices}" if len(files) > 1 else str(files[0]))
    return None


def torch_gpus() -> TorchGpus:
    """What torch can use on this machine. Imports torch, which takes seconds."""
    import torch

    if torch.version.cuda is None:
        return TorchGpus(0, "this PyTorch is built without CUDA", "")
    # The count alone may come from the driver's library NVML, which also works where CUDA does not.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number == 0:
        problem = ""
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]  # torch's has no types
        except (RuntimeError, AssertionError) as error:
            problem = _reason(str(error))
        # NCCL is not asked: an image without CUDA (docs/image.md) has none of it, and the process would end there.
        return TorchGpus(0, problem, f"CUDA {torch.version.cuda}")
    nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]  # torch's has no types
    return TorchGpus(number, "", f"CUDA {torch.version.cuda}, NCCL {nccl}")


def _reason(text: str) -> str:
    """What torch says about a driver, without its advice: `Error 802: ...` if CUDA gave a number, or one sentence."""
    line = text.strip().splitlines()[0]
    numbered = re.search(r"Error \d+: .*", line)
    return (numbered[0] if numbered else line.partition(". ")[0]).rstrip(".")


def check_gpus(promised: PromisedGpus | None, usable: TorchGpus) -> str:
    """Each GPU that is promised can be used, and none is broken.

    Returns:
        The GPUs, the driver, and the versions of CUDA and NCCL; empty without GPUs.

    Raises:
        NodeError: a GPU is missing, cannot be used, or is broken.
        UserError: torch is built without CUDA.
    """
    if promised is None and not usable.number:
        return ""
    if promised is not None and not usable.number:
        _refuse_none(promised, usable)
        return ""
    if (
        promised is not None and promised.number is not None and usable.number < promised.number
        and "CUDA_VISIBLE_DEVICES" not in os.environ
    ):  # fmt: skip
        raise NodeError(
            f"PyTorch can use {usable.number} of the {promised.number} GPUs that this machine should have "
            f"({promised.sign}); another machine may do"
        )
    return "; ".join(filter(None, (check_health(), usable.versions)))


def _refuse_none(promised: PromisedGpus, usable: TorchGpus) -> None:
    """Raise the error for GPUs that are promised while torch can use none."""
    if not usable.versions:
        if promised.sign.startswith("NVIDIA_VISIBLE_DEVICES"):
            raise UserError(
                f"this machine has GPUs ({promised.sign}), but {usable.problem}; use an image with the CUDA build of "
                f"PyTorch, or, {_LEAVE_OUT}"
            )
        return  # somebody has chosen such a build for a machine of their own
    why = usable.problem or "it does not say why"
    lower = why.lower()
    advice = "look at the machine's driver, or use another machine"
    if "driver" in lower and "too old" in lower:
        advice = f"update the driver, or use a machine whose driver has at least {usable.versions.split(',')[0]}"
    elif "802" in lower:
        advice = "its fabric manager does not run: start nvidia-fabricmanager, or use another machine"
    elif "no nvidia driver" in lower:
        advice = "the container has no driver: see to the NVIDIA container runtime of this machine, or use another one"
    raise NodeError(f"PyTorch can use no GPU here ({promised.sign}): {why}; {advice}; {_LEAVE_OUT}")


def check_enough(processes: int, usable: TorchGpus) -> str:
    """There is a GPU for each process.

    Args:
        processes: training processes of this machine.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    if usable.number and processes > usable.number:
        raise UserError(
            f"--nproc-per-node {processes} needs {processes} GPUs, but this machine has {usable.number}; ask for "
            f"machines with {processes}, or start {usable.number} processes"
        )
    return ""


# -------------------------------------------------------------------------------------------------------------- health


def check_health(environment: Mapping[str, str] = os.environ) -> str:
    """No GPU that this run may use is broken, as far as the driver knows.

    Returns:
        Names of the GPUs and version of the driver, and errors that need no action yet.

    Raises:
        NodeError: a GPU is lost, or waits for a reset or a replacement.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return "GPUs whose health is not known, as nvidia-smi is not there (NVIDIA_DRIVER_CAPABILITIES lacks utility)"
    rows = [row for row in _query(program, _FIELDS) if _is_used(row, environment.get("CUDA_VISIBLE_DEVICES"))]
    for row in rows:
        _refuse_broken(row)
    remarks = []
    for row in rows:
        errors = row["ecc.errors.uncorrected.volatile.total"]
        if errors.isdigit() and int(errors):
            remarks.append(f"GPU {row['index']} has counted {errors} uncorrectable memory errors since its last reset")
    try:
        actions = _query(program, ("index", "uuid", _ACTION))
    except NodeError:
        actions = []  # an older driver does not know the field
    for row in actions:
        if _is_used(row, environment.get("CUDA_VISIBLE_DEVICES")) and row[_ACTION].lower() not in _NO_ACTION:
            raise NodeError(
                f"GPU {row['index']} ({row['uuid']}) needs: {row[_ACTION]} (nvidia-smi, {_ACTION}); do that, or use "
                "another machine"
            )
    names = Counter(row["name"] for row in rows)
    gpus = ", ".join(f"{number} x {name}" for name, number in names.items())
    drivers = {row["driver_version"] for row in rows}
    return "; ".join([f"{gpus}, driver {', '.join(sorted(drivers))}", *remarks])


def _query(program: str, fields: tuple[str, ...]) -> list[dict[str, str]]:
    """Field -> value for each GPU. Raises NodeError if nvidia-smi fails, as it does when a GPU is lost."""
    command = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_SECONDS)
    except subprocess.TimeoutExpired:
        raise NodeError(
            f"nvidia-smi does not answer within {_SMI_SECONDS:.0f} s, as it does when a GPU hangs; reset the machine's "
            "GPUs, or use another machine"
        ) from None
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    lost = next((line for line in lines if "gpu is lost" in line.lower() or "unable to determine" in line.lower()), "")
    if done.returncode or lost:
        why = lost or (lines[0] if lines else f"exit code {done.returncode}")
        raise NodeError(f"nvidia-smi finds a GPU that does not answer: {why.strip()}; use another machine")
    values = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [dict(zip(fields, row, strict=True)) for row in values if len(row) == len(fields)]


def _is_used(row: Mapping[str, str], visible: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES leaves the GPU to this run. What it names otherwise (MIG) counts as every GPU."""
    names = [name.strip() for name in (visible or "").split(",") if name.strip()]
    if not names or any(name.startswith("MIG-") for name in names):
        return True
    return any(name == row["index"] or (name.startswith("GPU-") and row["uuid"].startswith(name)) for name in names)


def _refuse_broken(row: Mapping[str, str]) -> None:
    """Raise NodeError for a GPU whose memory the driver has given up, or wants to repair by a reset."""
    which = f"GPU {row['index']} ({row['uuid']})"
    if row["remapped_rows.failure"].lower() == "yes":
        raise NodeError(f"{which} has memory errors that cannot be repaired (row remapping failed); replace it")
    for field in ("remapped_rows.pending", "retired_pages.pending"):
        if row[field].lower() == "yes":
            raise NodeError(
                f"{which} has memory errors that a reset would repair ({field}); reset it, or use another machine"
            )
