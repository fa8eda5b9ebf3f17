"""How many floating-point operations a second a GPU can do at most, as its vendor states.

Numbers are those of dense matrix products with accumulation in float32, in operations a second, from NVIDIA's data
sheets and architecture white papers: V100 (2017), T4 (2018), A100, A30, A10, A40 (2020-2021), GeForce RTX 3090 (GA102)
and 4090 (Ada), L4, L40S (2023), H100 (2022), H200 (2024), Blackwell B200 (2025). Data sheets that state "with sparsity"
are halved. A GPU without units for a format has no number for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_TERA = 1e12


@dataclass(frozen=True)
class Peak:
    """Of one GPU, in 10^12 operations a second."""

    bfloat16: float | None
    tf32: float | None
    float32: float


_HOPPER_SXM = Peak(989.4, 494.7, 66.9)
PEAKS: dict[str, Peak] = {
    "B200": Peak(2250, 1125, 75),
    "H200": _HOPPER_SXM,
    "H200 NVL": Peak(835.5, 417.5, 60),
    "H100": _HOPPER_SXM,
    "H100 NVL": Peak(835.5, 417.5, 60),
    "H100 PCIe": Peak(756, 378, 51.2),
    "A100": Peak(312, 156, 19.5),
    "A30": Peak(165, 82, 10.3),
    "A40": Peak(149.7, 74.8, 37.4),
    "A10": Peak(125, 62.5, 31.2),
    "A10G": Peak(70, 35, 35),
    "L4": Peak(121, 60, 30.3),
    "L40S": Peak(362, 183, 91.6),
    "V100": Peak(None, None, 15.7),
    "V100-PCIE": Peak(None, None, 14),
    "T4": Peak(None, None, 8.1),
    "RTX 4090": Peak(165.2, 82.6, 82.6),
    "RTX 3090": Peak(71, 35.6, 35.6),
}
"""By model. Of two names that a device's name holds, the longer one is meant."""


def peak_flops(device: torch.device, *, uses_bfloat16: bool) -> float | None:
    """Operations a second of this device at most, in the precision of training.

    Returns:
        None on a CPU, for a part of a GPU (MIG), and where the GPU or its number is not in the table.
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
    known = [model for model in PEAKS if _names(name, model)]
    if not known or " MIG " in name:
        return None
    peak = PEAKS[max(known, key=len)]
    tera = peak.bfloat16 if uses_bfloat16 else peak.tf32 if uses_tf32 else peak.float32
    return None if tera is None else tera * _TERA


def _names(name: str, model: str) -> bool:
    """Whether a device's name holds that of a model as whole words: `L4` is not in `NVIDIA L40S`."""
    words, wanted = name.replace("-", " ").split(), model.replace("-", " ").split()
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words)))
