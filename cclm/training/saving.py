"""What a run leaves behind, and where it goes on: the one object between training and its places.

    saving = Saving(config, journal)                 every process calls everything
    start = saving.find_start(resume)                None: anew
    ...build model and optimizer...
    saving.restore(start, model, optimizer)
    report = Report(saving.folder, ...)              log.txt and metrics.jsonl are sent by themselves
    with saving:
        saving.save(step, model, optimizer, state)   returns after a copy to memory
        saving.save_best(step, model, state, score)
        saving.restore(saving.best(), model)
        saving.publish("retrieval.json")             written in saving.folder before
                                                     leaving waits until everything is where it should be

A place is a folder, path or URL: `output_dir` and, if set, `output_hdfs`. The first process writes; what it reads when
a run goes on it passes to the others, so that nodes need not share a disk.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import nn

from cclm import distributed, storage
from cclm.checkpoints.find import WEIGHTS, newest_checkpoint
from cclm.checkpoints.load import (
    load_model,
    load_optimizer,
    model_tensors,
    optimizer_tensors,
    set_optimizer_tensors,
)
from cclm.checkpoints.manifest import MODEL, OPTIMIZER, new_attempt, new_run
from cclm.checkpoints.process import WriterProcess
from cclm.checkpoints.retention import Retention
from cclm.checkpoints.snapshot import Snapshot
from cclm.checkpoints.writer import Outcome, Setup, open_lock, take_lock
from cclm.config.output import CheckpointConfig
from cclm.errors import UserError
from cclm.events import Journal, Notice, Saved, SaveFailed, Waited
from cclm.metrics.log_file import LOG
from cclm.metrics.metrics_file import METRICS
from cclm.training.preflight import check_place
from cclm.training.resume import BEST, Found, Start, fetch_logs, find_start, make_room


class OutputSettings(Protocol):
    """What this needs of a config; that of every task has it."""

    output_dir: str
    output_hdfs: str | None
    checkpoints: CheckpointConfig


class Saving:
    """Saves one run.

    Args:
        settings: a run's config.
        journal: gets `Saved`, `SaveFailed`, `Waited` and notices; on the first process only.

    Raises:
        UserError: a place takes no files.
        StoreUnavailable: a place does not answer; it may, later.
    """

    def __init__(self, settings: OutputSettings, journal: Journal) -> None:
        self._journal = journal
        self._settings = settings.checkpoints
        self._is_first = distributed.rank() == 0
        self._temporary: Path | None = None
        self.places = _places_of(settings)
        """Folders that hold the run, local ones first."""
        if self._is_first:
            for name, place in self.places.items():
                check_place(place, name)
        local = [place for place in self.places.values() if storage.is_local(place)]
        if not local and self._is_first:
            if self._settings.scratch is not None:
                Path(self._settings.scratch).mkdir(parents=True, exist_ok=True)
            self._temporary = Path(tempfile.mkdtemp(prefix="cclm-output-", dir=self._settings.scratch))
        folder = Path(storage.local_path(local[0])) if local else distributed.gather_objects(self._temporary)[0]
        self.folder: Path = folder
        """Local folder for log, metrics, results: what is written there and published is in every place."""
        if self._is_first:
            fetch_logs([*self.places.values()], self.folder)
        self._found = Found(new_run())
        self._snapshot: Snapshot | None = None
        self._writer: WriterProcess | None = None
        self._orders: list[_Order] = []
        """Asked for since the snapshot was taken."""
        self._unsaved: set[tuple[int, str]] = set()
        """Step and places of saves that failed, as far as heard."""
        self._best_score: float | None = None
        self._failed = 0
        self.committed: int | None = None
        """Step of the newest checkpoint that is in every place."""
        self.last: Outcome | None = None
        """How the last save that ended went."""
        self.blocked_seconds = 0.0
        """How long the last save held up its caller."""

    # ------------------------------------------------------------------------------------------------------- starting

    def find_start(self, resume: str) -> Start | None:
        """The checkpoint to go on from, or None to start anew.

        Args:
            resume: auto: the newest whole one in this run's places; never: none, what is there is set aside; else the
                folder of a checkpoint or run, unless this run has gone on from there already (it was restarted).

        Raises:
            UserError: there are checkpoints and none is whole, or no such folder.
        """
        if self._is_first:
            with open_lock(str(self.folder)) as lock:  # what an earlier start still saves is to be found
                if not take_lock(lock):
                    self._notice(f"another process still saves to {self.folder}; going on beside it")
            self._found = find_start([*self.places.values()], self.folder, resume, self._journal)
        checkpoint = self._found.checkpoint
        told = checkpoint and (checkpoint.step, checkpoint.state, checkpoint.source)
        told = distributed.gather_objects(told)[0]
        return told and Start(*told, checkpoint=checkpoint)

    def restore(self, start: Start | None, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Set parameters and optimizer state, on every process, from what the first one read; None: nothing to do.

        Raises:
            UserError: the checkpoint is of another model or optimizer.
        """
        if start is None:
            return
        tensors = {}
        if start.checkpoint is not None:
            load_model(start.checkpoint, model)
            if optimizer is not None:
                load_optimizer(start.checkpoint, optimizer)
                tensors = optimizer_tensors(optimizer)
                self._found = make_room(self._found, [*self.places.values()])  # nothing has moved if it did not fit
        for parameter in model.parameters():
            distributed.broadcast(parameter.detach())
        if optimizer is not None and distributed.world_size() > 1:
            kinds = {name: (tensor.shape, tensor.dtype, str(tensor.device.type)) for name, tensor in tensors.items()}
            kinds = distributed.gather_objects(kinds)[0]
            if not self._is_first:
                tensors = {
                    name: torch.empty(shape, dtype=dtype, device=kind) for name, (shape, dtype, kind) in kinds.items()
                }
            for tensor in tensors.values():
                distributed.broadcast(tensor)
            if not self._is_first:
                set_optimizer_tensors(optimizer, tensors, start.source)

    # --------------------------------------------------------------------------------------------------------- saving

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Make a checkpoint of outer step `step`; returns after a copy to memory.

        One save is under way at a time: while it is, the next one waits, and says so. All processes call this, and wait
        with the first one, whatever --collective-timeout is.

        Args:
            optimizer: its groups carry `names`, in the order of their `params`.
            state: JSON values to keep beside the tensors.

        Raises:
            UserError, StoreUnavailable: too many saves failed in a row, or a place belongs to another run.
        """
        began = time.monotonic()
        with distributed.others_wait():
            if self._is_first:
                self._wait_for_writer(step)
        if not self._is_first:
            return
        files = {MODEL: model_tensors(model), OPTIMIZER: optimizer_tensors(optimizer)}
        self._open_snapshot().take(files)
        self._orders = []
        retention = Retention(self._settings.keep_last, self._settings.keep_every, self._resumed_from())
        places = tuple(self.places.values())
        self._order(_Order(step, (MODEL, OPTIMIZER), self._complete(state), places, retention))
        self.blocked_seconds = time.monotonic() - began

    def save_best(self, step: int, model: nn.Module, state: Mapping[str, Any], score: float) -> None:
        """Keep the model of outer step `step`, without optimizer, in place of the best one so far (folder `best`)."""
        with distributed.others_wait():
            if self._is_first:
                self._save_best(step, model, state, score)

    def _save_best(self, step: int, model: nn.Module, state: Mapping[str, Any], score: float) -> None:
        if not self._orders or self._orders[-1].step != step:
            self._wait_for_writer(step)
            self._open_snapshot().take({MODEL: model_tensors(model)})
            self._orders = []
        places = tuple(storage.join(place, BEST) for place in self.places.values())
        self._order(_Order(step, (MODEL,), self._complete(state), places, None, score))

    def save_if_best(self, step: int, model: nn.Module, state: Mapping[str, Any], score: float) -> None:
        """`save_best` where `score` is above that of the best checkpoint there is, of this start or an earlier one."""
        self.poll()
        with distributed.others_wait():
            if self._is_first and self._best_score is None:
                places = [storage.join(place, BEST) for place in self.places.values()]
                best = newest_checkpoint(places, self._notice, WEIGHTS)
                self._best_score = -math.inf if best is None or best.manifest.score is None else best.manifest.score
            if self._is_first and score > self._best_score:
                self._save_best(step, model, state, score)
                self._best_score = score

    def best(self) -> Start | None:
        """The best checkpoint so far, when all that was asked for is written: what `restore` takes, on each process."""
        found = None
        with distributed.others_wait():
            if self._is_first:
                if self._writer is not None:
                    self._finish_orders()
                places = [storage.join(place, BEST) for place in self.places.values()]
                found = newest_checkpoint(places, self._notice, WEIGHTS)
        told = distributed.gather_objects(found and (found.step, found.state, found.source))[0]
        return told and Start(*told, checkpoint=found)

    def publish(self, *names: str) -> None:
        """Send these files of `folder` (names or patterns), and again whenever they change, to every other place."""
        if self._is_first:
            self._open_writer().mirror(names)

    def poll(self) -> None:
        """Tell how earlier saves went, without waiting.

        Raises:
            UserError, StoreUnavailable: as `save`.
        """
        if self._writer is not None:
            self._judge(self._writer.outcomes(wait=False))

    def close(self) -> None:
        """Wait until the last checkpoint and all small files are in every place; a save that failed is tried again.

        Raises:
            UserError, StoreUnavailable: they cannot be brought there.
        """
        problems: list[str] = []
        with distributed.others_wait():
            if self._writer is not None:
                try:
                    self._finish_orders()
                    problems = self._writer.flush()
                finally:
                    self._end_writer()
        if problems:
            raise storage.StoreUnavailable("; ".join(problems))
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        elif self._writer is not None:
            self._end_writer()  # what is under way is finished; the error that ends the run is the one to show

    # -------------------------------------------------------------------------------------------------------- details

    def _open_snapshot(self) -> Snapshot:
        self._open_writer()
        return self._snapshot

    def _open_writer(self) -> WriterProcess:
        if self._writer is None:
            self._found = make_room(self._found, [*self.places.values()])
            self._snapshot = Snapshot()
            others = [place for place in self.places.values() if Path(storage.local_path(place)) != self.folder]
            setup = Setup(
                run=self._found.run,
                attempt=new_attempt(self._found.run),
                world_size=distributed.world_size(),
                memory=self._snapshot.handle,
                scratch=str(self._temporary or self.folder),
                damaged=self._found.damaged,
                mirror_from=str(self.folder),
                mirror_to=tuple(others),
            )
            self._writer = WriterProcess(setup)
            self._writer.mirror((LOG, METRICS))
        return self._writer

    def _resumed_from(self) -> int | None:
        return self._found.checkpoint and self._found.checkpoint.step

    def _complete(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {**state, "origin": self._found.origin}

    def _order(self, order: _Order) -> None:
        self._orders.append(order)
        self._send(order)

    def _send(self, order: _Order) -> None:
        self._writer.save(
            order.step, self._snapshot.layout, order.roles, order.state, order.places, order.retention, order.score
        )

    def _wait_for_writer(self, step: int) -> None:
        """Until no save is under way."""
        if self._writer is None:
            return
        self._judge(self._writer.outcomes(wait=False))
        if self._writer.is_busy:
            began = time.monotonic()
            outcomes = self._writer.outcomes(wait=True)
            waited = time.monotonic() - began
            if waited >= 0.05:
                self._journal.emit(Waited(step, waited, "the save before to end"))
            self._judge(outcomes)

    def _finish_orders(self) -> None:
        """Until all that the snapshot was taken for is saved; what failed, whenever that was heard, is tried again."""
        self._judge(self._writer.outcomes(wait=True))
        for order in self._orders:
            if (order.step, ", ".join(order.places)) in self._unsaved:
                self._notice(f"trying once more to save step {order.step}")
                self._send(order)
        for outcome in self._judge(self._writer.outcomes(wait=True)):
            raise _as_exception(outcome)

    def _judge(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Tell how saves went; returns those that failed."""
        failed = [outcome for outcome in outcomes if outcome.error]
        for outcome in outcomes:
            self.last = outcome
            for note in outcome.notes:
                self._notice(note)
            if not outcome.error:
                self._failed = 0
                self._unsaved.discard((outcome.step, outcome.place))
                self.committed = outcome.step
                self._journal.emit(
                    Saved(outcome.step, outcome.place, outcome.size, outcome.seconds, self.blocked_seconds)
                )
                continue
            self._failed += 1
            self._unsaved.add((outcome.step, outcome.place))
            self._best_score = None  # the best one may not be there: looked up again
            allowed = self._settings.max_failed_saves
            self._journal.emit(SaveFailed(outcome.step, outcome.place, outcome.error, self._failed, allowed))
            if outcome.cause == "other_run" or self._failed >= allowed:
                raise _as_exception(outcome)
        return failed

    def _notice(self, text: str) -> None:
        self._journal.emit(Notice(text))

    def _end_writer(self) -> None:
        self._writer.close()
        self._snapshot.close()
        self._writer = self._snapshot = None


@dataclass(frozen=True)
class _Order:
    """One checkpoint that was asked for; its tensors are in the snapshot until the next one is taken."""

    step: int
    roles: tuple[str, ...]
    state: Mapping[str, Any]
    places: tuple[str, ...]
    retention: Retention | None
    score: float | None = None


def _places_of(settings: OutputSettings) -> dict[str, str]:
    """Setting -> folder; local ones first, the same folder once."""
    places = {"output_dir": settings.output_dir}
    if settings.output_hdfs is not None and settings.output_hdfs.rstrip("/") != settings.output_dir.rstrip("/"):
        places["output_hdfs"] = settings.output_hdfs
    return dict(sorted(places.items(), key=lambda item: not storage.is_local(item[1])))


def _as_exception(outcome: Outcome) -> Exception:
    text = f"the checkpoint of step {outcome.step} cannot be written to {outcome.place}: {outcome.error}"
    if outcome.cause in ("unavailable", "died"):
        return storage.StoreUnavailable(f"{text}. The run goes on from the checkpoint before when it is started again")
    return UserError(f"{text}; make room or choose other places, and start again: it goes on from the one before")
