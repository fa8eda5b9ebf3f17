"""`status.json`: how a run is. One small file, replaced whenever something happens and twice a minute.

`cclm status` reads it. Its time of writing is the sign of life of a run whose steps, evaluations or saves take long.
`cclm evaluate` keeps `evaluation.json` in the same way. The files differ in name since an evaluation may write into the
folder of a run that still trains.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

from cclm.events import (
    Evaluated,
    EvaluationStarted,
    Event,
    FileRefused,
    Interval,
    Journal,
    Notice,
    PhaseChanged,
    Saved,
    SaveFailed,
    Started,
    StepDone,
    Stopped,
    UpdatesSkipped,
    Warned,
)
from cclm.metrics.phases import ENDED, FAILED, STOPPED
from cclm.metrics.sentences import sentence
from cclm.metrics.tables import main_metric, mean_rows
from cclm.metrics.waiting import folder_of_marks, phase_with_waits, waiters

STATUS = "status.json"
"""Of a run that trains."""
EVALUATION = "evaluation.json"
"""Of a standalone evaluation."""
SIGN_OF_LIFE = 30.0
"""Seconds between two times of writing, at most."""

_KEPT_OVER_STARTS = ("checkpoint", "best", "evaluated", "warning")


class StatusFile:
    """Keeps `status.json` while a run trains, or `evaluation.json` while a model is evaluated.

    The file is there from `Started` or `EvaluationStarted` on.

    A disk that takes no more ends no run: that is said once in a row, and tried again.

    Args:
        path: of the file; an earlier start of the same run may have left one.
        journal: gets a `Notice` when the file cannot be written.
        every: seconds between two times of writing, at most.
    """

    def __init__(self, path: Path, journal: Journal, every: float = SIGN_OF_LIFE) -> None:
        self.path = path
        self._journal = journal
        self._every = every
        self._values: dict[str, Any] = {}
        self._stopped_by: str | None = None
        self._is_refused = False
        self._lock = threading.Lock()  # reader threads log warnings, and a thread of its own writes signs of life
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def handle(self, event: Event) -> None:
        with self._lock:
            is_to_be_written = self._take(event)
        if is_to_be_written:
            self._write()
        if isinstance(event, Started | EvaluationStarted) and self._thread is None:
            self._thread = threading.Thread(target=self._show_life, name="status", daemon=True)
            self._thread.start()

    def fail(self, error: BaseException) -> None:
        """An exception ends the run. A signal that comes while no step runs is one, too (SystemExit)."""
        if not self._values:
            return
        with self._lock:
            if isinstance(error, SystemExit | KeyboardInterrupt):
                self._values["phase"] = STOPPED
            else:
                lines = str(error).splitlines()
                reason = lines[0] if lines else type(error).__name__
                self._values |= {"phase": FAILED, "error": reason}
        self._write()

    def close(self) -> None:
        """No more signs of life."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _take(self, event: Event) -> bool:
        """Remember what an event says; returns whether it is worth writing at once."""
        now = time.time()
        match event:
            case Started():
                self._begin(event)
            case EvaluationStarted():
                self._values |= {
                    "task": event.task,
                    "weights": event.weights,
                    "step": event.step,
                    "phase": "preparing",
                    "processes": event.processes,
                    "device": event.device,
                    "start_time": now,
                }
            case Interval():
                self._values |= _of_interval(event) | {"interval_time": now, "interval_seconds": event.seconds}
            case StepDone():
                self._values |= {"step": event.step, "step_time": now}
                return False
            case PhaseChanged():
                is_stopped = event.phase == ENDED and self._stopped_by is not None
                self._values |= {"phase": STOPPED if is_stopped else event.phase, "phase_time": now}
            case Evaluated():
                self._values["evaluated"] = _of_scores(event) | {"time": now}
            case Saved():
                self._values["best" if event.is_best else "checkpoint"] = {
                    "step": event.step,
                    "place": event.place,
                    "bytes": event.bytes,
                    "seconds": event.seconds,
                    "time": event.time,
                }
                self._values["save_failure"] = None
            case SaveFailed():
                self._values["save_failure"] = {
                    "step": event.step,
                    "place": event.place,
                    "reason": event.reason,
                    "failures_in_a_row": event.failures_in_a_row,
                    "allowed": event.allowed,
                    "time": now,
                }
            case Stopped():
                self._stopped_by = event.signal
                self._values |= {"phase": "saving", "step": event.step, "stopped_by": event.signal}
            case Warned() | FileRefused() | UpdatesSkipped():
                self._values["warning"] = {"text": sentence(event), "time": now}
                return False  # there may be many
            case _:
                return False
        return "task" in self._values  # not before `Started`: what an earlier run has left may still be set aside

    def _begin(self, event: Started) -> None:
        earlier = _read(self.path)
        is_same_run = bool(event.run) and earlier.get("run") == event.run
        kept = {key: earlier.get(key) for key in _KEPT_OVER_STARTS} if is_same_run else {}
        self._values = {
            "task": event.task,
            "run": event.run,
            "phase": "preparing",
            "step": event.step,
            "total_steps": event.total_steps,
            "processes": event.processes,
            "device": event.device,
            "starts": (earlier.get("starts") or 0) + 1 if is_same_run else 1,
            "start_time": time.time(),
            **kept,
            **{key: value for key, value in self._values.items() if key == "warning"},
        }
        self._stopped_by = None

    def _show_life(self) -> None:
        while not self._closed.wait(self._every):
            self._write()

    def _write(self) -> None:
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        refusal = None
        waiting = waiters(folder_of_marks())
        with self._lock:
            now = {"phase": phase_with_waits(self._values["phase"], waiting), "time": time.time()}
            try:
                temporary.write_text(
                    json.dumps({**self._values, **now}, ensure_ascii=False) + "\n",
                    encoding="utf-8",
                    errors="backslashreplace",
                )
                temporary.replace(self.path)
                self._is_refused = False
            except OSError as error:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                if not self._is_refused and self.path.parent.exists():  # a temporary folder goes before its files close
                    refusal = error.strerror or str(error)
                    self._is_refused = True
        if refusal is not None:
            self._journal.emit(Notice(f"{self.path} cannot be written ({refusal}); the run goes on without it"))


def _of_scores(event: Evaluated) -> dict[str, Any]:
    metric = main_metric(next(iter(event.scores.values())))
    rows = {**event.scores, **mean_rows(event.scores)}
    values = {row: metrics[metric] for row, metrics in rows.items()}
    return {"split": event.split, "step": event.step, "metric": metric, "scores": values}


def _of_interval(event: Interval) -> dict[str, Any]:
    return {
        "step": event.step,
        "total_steps": event.total_steps,
        "losses": dict(event.losses),
        "lr": event.lr,
        "learnt": dict(event.learnt),
        "images_per_second": event.images_per_second,
        "texts_per_second": event.texts_per_second,
        "model_flops_per_second": event.model_flops_per_second,
        "model_flops_utilization": event.model_flops_utilization,
        "eta_seconds": event.eta_seconds,
        "epochs": dict(event.epochs),
        "skipped": dict(event.skipped),
    }


def _read(path: Path) -> dict[str, Any]:
    """What an earlier start has left; empty if there is nothing that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
