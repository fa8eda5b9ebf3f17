"""How many floating-point operations a second a GPU can do at most, as its vendor states.

Numbers are those of dense matrix products with accumulation in float32, in operations a second. NVIDIA's data sheets
and architecture white papers state them; each row names its own. Numbers that are stated "with sparsity" are halved. A
GPU without units for a format has no number for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_TERA = 1e12


@dataclass(frozen=True)
class Peak:
    """Of one GPU, in 10^12 operations a second."""

    bfloat16: float | None
    tf32: float | None
    float32: float


_HOPPER_SXM = Peak(989.4, 494.7, 66.9)  # H100 architecture white paper, SXM5; the data sheets of both round it
_HOPPER_NVL = Peak(835.5, 417.5, 60)  # data sheets of both: 1,671 and 835 with sparsity, 60
PEAKS: dict[str, Peak] = {
    "B200": Peak(2250, 1100, 75),  # HGX B200 data sheet: 4.5 and 2.2 PFLOPS with sparsity, 75 TFLOPS
    "H200": _HOPPER_SXM,
    "H200 NVL": _HOPPER_NVL,
    "H100": _HOPPER_SXM,
    "H100 NVL": _HOPPER_NVL,
    "H100 PCIe": Peak(756, 378, 51.2),  # data sheet: 1,513 and 756 with sparsity, 51
    "A100": Peak(312, 156, 19.5),  # data sheet, the same for SXM and PCIe, 40 and 80 GB
    "A30": Peak(165, 82, 10.3),  # data sheet
    "A40": Peak(149.7, 74.8, 37.4),  # data sheet
    "A10": Peak(125, 62.5, 31.2),  # data sheet
    "A10G": Peak(70, 35, 35),  # data sheet: 140 and 70 with sparsity, 35
    "L4": Peak(121, 60, 30.3),  # data sheet: 242 and 120 with sparsity, 30.3
    "L40S": Peak(362, 183, 91.6),  # data sheet
    "V100": Peak(None, None, 15.7),  # data sheet, SXM2; its units for matrices know float16 alone
    "V100 PCIE": Peak(None, None, 14),  # data sheet
    "T4": Peak(None, None, 8.1),  # data sheet; as V100
    "RTX 4090": Peak(165.2, 82.6, 82.6),  # Ada architecture white paper
    "RTX 3090": Peak(71, 35.6, 35.6),  # GA102 architecture white paper
}
"""By model, in words as a device's name has them. Of two that fit a name, the longer one is meant."""

_SAME = re.compile(r"NVIDIA|Tesla|GeForce|SXM\d?|PCIe|PCIE|\d+GB|HBM\d?e?")
"""Words of a name that leave a model what it is. Any other word makes another one of it: `Ti`, `D`, `Laptop`, `MIG`."""
_OTHERS = ("A100 SXM 64GB",)
"""Names of GPUs that were made for one computer, with more units than others of their model have."""


def peak_flops(device: torch.device, *, uses_bfloat16: bool) -> float | None:
    """Operations a second of this device at most, in the precision of training.

    Returns:
        None on a CPU, for a part of a GPU (MIG, vGPU), and where the GPU or its number is not in the table.
    """
    if device.type != "cuda":
        return None
    return peak_of(
        torch.cuda.get_device_name(device),
        uses_bfloat16=uses_bfloat16,
        uses_tf32=torch.get_float32_matmul_precision() != "highest",
    )


def peak_of(name: str, *, uses_bfloat16: bool, uses_tf32: bool) -> float | None:
    """The same for a name such as `NVIDIA A100-SXM4-80GB`, as torch gives it."""
    words = name.replace("-", " ").split()
    known = [model for model in PEAKS if _is(words, model.split())]
    if not known or any(_is(words, other.split()) for other in _OTHERS):
        return None
    peak = PEAKS[max(known, key=len)]
    tera = peak.bfloat16 if uses_bfloat16 else peak.tf32 if uses_tf32 else peak.float32
    return None if tera is None else tera * _TERA


def _is(words: Sequence[str], model: Sequence[str]) -> bool:
    """Whether the words of a device's name are those of a model, and words that make no other one of it."""
    rest = [word for word in words if word not in model]
    return set(model) <= set(words) and all(_SAME.fullmatch(word) for word in rest)
