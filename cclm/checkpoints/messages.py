"""What the training process and its writer (`writer.py`) send each other. No torch here: the writer does without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cclm.checkpoints.retention import Retention
from cclm.events import CleanupFailed, SavedByOther


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies in the memory of a snapshot, in terms that need no torch to read."""

    dtype: str
    """As in `torch.<dtype>`: float32, bfloat16 ..."""
    shape: tuple[int, ...]
    start: int
    """Bytes from the start of the memory."""
    size: int
    """Bytes."""


Layout = dict[str, dict[str, TensorPlace]]
"""Role of the file -> name of the tensor -> its place."""


@dataclass(frozen=True)
class WriterSetup:
    """What stays the same from save to save."""

    run: str
    attempt: str
    world_size: int
    memory: int
    """File descriptor of the snapshot."""
    scratch: str
    """Local folder for the files of checkpoints that no local place keeps."""
    damaged: tuple[str, ...] = ()
    """Attempts whose checkpoints were found damaged when the run started: they may be replaced."""
    start_step: int = 0
    """Outer steps done when this process began."""
    mirror_from: str = ""
    """Local folder of log, metrics and results."""
    mirror_to: tuple[str, ...] = ()
    """URLs of the folders that get copies of them."""
    lock: int | None = None
    """File descriptor of the lock of `mirror_from` (`lock.py`); None: it could not be opened."""


@dataclass(frozen=True)
class SaveRequest:
    """One checkpoint to write. Its tensors stay in the snapshot until the next snapshot is taken."""

    step: int
    """Outer steps done."""
    layout: Layout
    """The tensors of each file."""
    state: Mapping[str, Any]
    """JSON values."""
    places: tuple[str, ...]
    """Run folders, local ones first."""
    retention: Retention | None
    """None: this checkpoint replaces all others of the run (the best)."""
    score: float | None = None

    @property
    def place(self) -> str:
        """All places in words, as `SaveOutcome.place` has them."""
        return ", ".join(self.places)

    def to_json(self) -> dict[str, Any]:
        """All but the layout, which is large and rarely changes: of it, only the roles are named."""
        retention = None if self.retention is None else dataclasses.asdict(self.retention)
        return {
            "step": self.step,
            "roles": [*self.layout],
            "state": self.state,
            "places": self.places,
            "retention": retention,
            "score": self.score,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any], layout: Layout) -> SaveRequest:
        """The request that `to_json` has described; `layout` holds at least its roles."""
        retention = values["retention"]
        return SaveRequest(
            step=values["step"],
            layout={role: layout[role] for role in values["roles"]},
            state=values["state"],
            places=tuple(values["places"]),
            retention=None if retention is None else Retention(**retention),
            score=values["score"],
        )


class FailureCause(StrEnum):
    """Why a save failed."""

    UNAVAILABLE = "unavailable"
    """A store does not answer; it may, later."""
    OTHER_RUN = "other_run"
    """A place belongs to another run."""
    USER = "user"
    """Somebody has to act: a full disk, missing rights."""
    DIED = "died"
    """The writer ended before it was done."""


@dataclass
class SaveOutcome:
    """How a save went."""

    step: int
    place: str = ""
    """All places of the request, in words."""
    seconds: float = 0.0
    staging_seconds: float = 0.0
    """The part of `seconds` until the files were on the local disk."""
    size: int = 0
    """Total size in bytes of the files that the manifest of one copy names."""
    time: float = 0.0
    """Unix time at which it was committed in every place."""
    error: str = ""
    """Empty: the checkpoint is committed in every place."""
    cause: FailureCause | None = None
    """None if the save succeeded."""
    saved_by_other: list[SavedByOther] = field(default_factory=list)
    """Places that another attempt of the run was the first to fill."""
    cleanup_failures: list[CleanupFailed] = field(default_factory=list)
    """Older checkpoints that could not be deleted after this one."""

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> SaveOutcome:
        """The outcome that `dataclasses.asdict` has described."""
        cause = values["cause"]
        typed = {
            "cause": None if cause is None else FailureCause(cause),
            "saved_by_other": [SavedByOther(**each) for each in values["saved_by_other"]],
            "cleanup_failures": [CleanupFailed(**each) for each in values["cleanup_failures"]],
        }
        return SaveOutcome(**{**values, **typed})


def layout_to_json(layout: Layout) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        role: {name: dataclasses.asdict(place) for name, place in tensors.items()} for role, tensors in layout.items()
    }


def layout_from_json(values: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Layout:
    return {
        role: {
            name: TensorPlace(place["dtype"], tuple(place["shape"]), place["start"], place["size"])
            for name, place in tensors.items()
        }
        for role, tensors in values.items()
    }
