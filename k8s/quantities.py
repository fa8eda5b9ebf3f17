"""Amounts of resources as Kubernetes writes them: `100m`, `2`, `64Gi`. Pure."""

from __future__ import annotations

import re

from cclm.errors import UserError

MEGABYTE = 10**6
"""TorchX's memMB are these."""

_FACTORS = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_FORM = re.compile(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)")


def amount(text: object) -> float:
    """An amount in its unit: cores, bytes, devices.

    Raises:
        ValueError: it is none.
    """
    form = _FORM.fullmatch(str(text))
    if form is None or form[2] not in _FACTORS:
        raise ValueError(f"not an amount of a resource: {text}")
    return float(form[1]) * _FACTORS[form[2]]


def bytes_of(text: str, what: str) -> int:
    """Bytes of an amount of memory or disk that a user has written.

    Args:
        what: whose amount it is, for messages.

    Raises:
        UserError: it is no such amount.
    """
    form = _FORM.fullmatch(text)
    if form is None or form[2] not in _FACTORS or amount(text) < 1:
        raise UserError(f"{what}={text}: write an amount as 512Mi or 64Gi")
    return int(amount(text))


def in_mebibytes(size: int) -> str:
    """So many bytes, rounded up, as Kubernetes writes them."""
    return f"{-(-size // 2**20)}Mi"


def in_words(resource: str, value: float) -> str:
    """An amount for people: bytes of memory in Gi or Mi, all else as a plain number."""
    if resource in ("memory", "ephemeral-storage") or resource.startswith("hugepages-"):
        return f"{_rounded(value / 2**30)}Gi" if value >= 2**30 else f"{_rounded(value / 2**20)}Mi"
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _rounded(value: float) -> str:
    """Three digits, or all of a larger whole number: never with an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
