"""Items of a golden folder, and how far computed ones are from them.

An item is a tensor, a number, or a list of names. Every item of the folder must be computed, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 1e-4
"""Largest relative error in float32; about 1e-6 is usual."""
OPTIMIZER_TOLERANCE = 1e-3
"""For several optimizer steps: published AdamW adds eps before bias correction and decays after the update."""
FLOOR = 0.06
"""Part of a float32 tensor's root mean square that is added to each element; the noise of this build, on another CPU
than the published numbers, then stays well below the tolerance (largest at `mlm_logits`, about 3e-5)."""
NOT_RESCORED = -100.0

Item = Tensor | float | int | str | list | dict


@dataclass(frozen=True)
class Comparison:
    """One line of the report."""

    name: str
    error: float
    """Largest relative error; inf where values cannot be compared at all."""
    tolerance: float
    remark: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance and not self.remark


def compare(
    expected: Mapping[str, Item], computed: Mapping[str, Item], failures: Mapping[str, str] | None = None
) -> list[Comparison]:
    """One comparison an item of either side, in the order of `expected`.

    Args:
        failures: group of items that could not be computed -> why; each becomes a failing line of its own.
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
    """Largest relative error of `found`; inf for other types, shapes, names or integers.

    Numbers, lists of numbers and probabilities count relative to themselves. An element of another tensor counts
    relative to itself plus `FLOOR` times the root mean square, since float32 noise of elements near zero says nothing.
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
    """Rows (B, A) that each add up to 1, without zeros."""
    if found.ndim != 2 or not ((found > 0) & (found <= 1)).all():
        return False
    return bool(((found.sum(dim=1) - 1).abs() < 1e-3).all())


def flatten(prefix: str, value: Item) -> dict[str, Item]:
    """Nested dicts and lists of numbers as single items: {"a": {"b": 1}} -> {"prefix/a/b": 1}; lists of names stay."""
    if isinstance(value, dict) and value:
        return {name: item for key, part in value.items() for name, item in flatten(f"{prefix}/{key}", part).items()}
    if isinstance(value, list) and value and not all(isinstance(part, str) for part in value):
        if all(isinstance(part, int | float) for part in value):
            return {prefix: torch.tensor(value, dtype=torch.float64)}
        return {
            name: item for index, part in enumerate(value) for name, item in flatten(f"{prefix}/{index}", part).items()
        }
    return {prefix: value}
