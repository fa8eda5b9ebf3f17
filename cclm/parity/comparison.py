"""Items of a golden folder, and their differences from computed ones.

An item is a tensor, a number, or a list of names. This build must compute every item of the folder, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-4
"""Largest relative error in float32; about 1e-6 is usual."""
OPTIMIZER_TOLERANCE = 1e-3
"""For several optimizer steps: published AdamW adds eps before bias correction and decays after the update."""
FLOOR = 0.06
"""Part of a float32 tensor's root mean square that is added to the magnitude of each element. Without it, float32 noise
of elements near zero would be above the tolerance on another CPU than that of the published numbers. With it, the noise
is well below the tolerance (largest at `mlm_logits`, about 3e-5)."""
NOT_RESCORED = -100.0
"""The published value, independent of `cclm.tasks.rescoring`."""

Item = Tensor | float | int | str | list[Any] | dict[str, Any]
"""What JSON holds, or a tensor."""


@dataclass(frozen=True)
class Comparison:
    """One item of the folder and of this build: one line of the report."""

    name: str
    error: float
    """Largest relative error; inf where the values cannot be compared."""
    tolerance: float
    remark: str = ""
    """Why the item failed, if not by its error."""

    @property
    def ok(self) -> bool:
        """Whether the item passed."""
        return self.error <= self.tolerance and not self.remark


def compare(
    expected: Mapping[str, Item], computed: Mapping[str, Item], failures: Mapping[str, str] | None = None
) -> list[Comparison]:
    """One comparison for each item of either side, in the order of `expected`.

    Args:
        failures: group of items that could not be computed -> why. Each becomes a failing comparison of its own.
    """
    failures = failures or {}
    unknown = "not computed, see the last lines" if failures else "this build does not know the item"
    comparisons = []
    for name, wanted in expected.items():
        tolerance = OPTIMIZER_TOLERANCE if name.startswith("more.json/results/optimizer_steps") else TOLERANCE
        if name not in computed:
            comparisons.append(Comparison(name, float("inf"), tolerance, unknown))
            continue
        comparisons.append(Comparison(name, relative_error(wanted, computed[name]), tolerance))
    for name in computed:
        if name not in expected:
            comparisons.append(Comparison(name, float("inf"), TOLERANCE, "missing in the folder"))
    return comparisons + [Comparison(group, float("inf"), TOLERANCE, why) for group, why in failures.items()]


def relative_error(wanted: Item, found: Item) -> float:
    """Largest relative error of `found`; inf if types or shapes differ, or names or integers are unequal.

    The error of numbers, lists of numbers and probabilities is relative to their magnitude. In other tensors it is
    relative to the magnitude of the element plus `FLOOR` times the root mean square of all elements.
    """
    if isinstance(wanted, Tensor) and isinstance(found, Tensor):
        return _tensor_error(wanted, found)
    numbers = (int, float)
    if isinstance(wanted, int) and isinstance(found, int):
        return 0.0 if wanted == found and type(wanted) is type(found) else float("inf")
    if isinstance(wanted, numbers) and isinstance(found, numbers):
        return _tensor_error(torch.tensor(wanted, dtype=torch.float64), torch.tensor(found, dtype=torch.float64))
    return 0.0 if type(wanted) is type(found) and wanted == found else float("inf")


def _tensor_error(wanted: Tensor, found: Tensor) -> float:
    if wanted.shape != found.shape:
        return float("inf")
    if not wanted.is_floating_point():
        return 0.0 if torch.equal(wanted, found.to(wanted.dtype)) else float("inf")
    exact = wanted.dtype == torch.float64 or wanted.numel() == 1 or _are_probabilities(found)
    wanted, found = wanted.detach().double(), found.detach().double()
    if not (wanted.isfinite().all() and found.isfinite().all()):
        return float("inf")
    ruled_out = wanted == NOT_RESCORED
    if not torch.equal(ruled_out, found == NOT_RESCORED):
        return float("inf")
    wanted, found = wanted[~ruled_out], found[~ruled_out]
    if wanted.numel() == 0:
        return 0.0
    floor = 0.0 if exact else FLOOR * wanted.square().mean().sqrt()
    scale = wanted.abs() + floor
    difference = (wanted - found).abs()
    return float(torch.where(difference == 0, 0.0, difference / scale).max())


def _are_probabilities(found: Tensor) -> bool:
    """Whether each row of a tensor (B, A) adds up to 1, without zeros."""
    if found.ndim != 2 or not ((found > 0) & (found <= 1)).all():
        return False
    return bool(((found.sum(dim=1) - 1).abs() < 1e-3).all())


def flatten(prefix: str, value: Item) -> dict[str, Item]:
    """Nested dicts and lists as single items: {"a": {"b": 1}} -> {"prefix/a/b": 1}.

    A list of numbers becomes a tensor. A list of names stays as it is.
    """
    if isinstance(value, dict) and value:
        return {name: item for key, part in value.items() for name, item in flatten(f"{prefix}/{key}", part).items()}
    if isinstance(value, list) and value and not all(isinstance(part, str) for part in value):
        if all(isinstance(part, int | float) for part in value):
            return {prefix: torch.tensor(value, dtype=torch.float64)}
        return {
            name: item for index, part in enumerate(value) for name, item in flatten(f"{prefix}/{index}", part).items()
        }
    return {prefix: value}
