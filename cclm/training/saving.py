"""What a run saves, and where it goes on: the one object between training and the places of a run (`places.py`).

    saving = Saving(config, journal)                 every process calls everything
    start = saving.find_start(resume)                None: the run starts anew
    ...build model and optimizer...
    saving.restore(start, model, optimizer)
    ...write log.txt and metrics.jsonl in saving.folder: they are sent by themselves...
    with saving:
        saving.save(step, model, optimizer, state)   returns after a copy to memory
        saving.save_best(step, model, state, score)
        saving.restore(saving.best(), model)
        saving.publish("retrieval.json")             written in saving.folder before
                                                     leaving waits until everything is where it should be

The first process writes. What it reads when a run goes on it passes to the others, so nodes need not share a disk.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import nn

from cclm import distributed, storage
from cclm.checkpoints.find import WEIGHTS, Checkpoint, newest_checkpoint
from cclm.checkpoints.load import (
    load_model,
    load_optimizer,
    model_tensors,
    optimizer_tensors,
)
from cclm.checkpoints.lock import open_lock, take_lock
from cclm.checkpoints.manifest import MODEL, OPTIMIZER, new_attempt, new_run
from cclm.checkpoints.messages import FailureCause, SaveOutcome, SaveRequest, WriterSetup
from cclm.checkpoints.process import WriterProcess
from cclm.checkpoints.retention import Retention
from cclm.checkpoints.snapshot import Snapshot
from cclm.errors import UserError
from cclm.events import Journal, Notice, PhaseChanged, Saved, SaveFailed, Waited
from cclm.metrics.log_file import LOG
from cclm.metrics.metrics_file import METRICS
from cclm.training.optimizer import share_optimizer_state
from cclm.training.places import OutputSettings, RunPlaces
from cclm.training.resume import Lineage, Start, find_lineage, make_room, withdraw_name

_NOTICEABLE_WAIT = 0.05
"""Seconds; shorter waits of the training for the writer are not reported."""


class _SaveId(NamedTuple):
    step: int
    place: str
    """All places in words, as in `SaveOutcome.place`."""


class Saving:
    """Saves one run.

    Args:
        settings: a run's config.
        journal: gets every event about checkpoints, `Waited` and notices, all on the first process.

    Raises:
        UserError: a place takes no files.
        StoreUnavailable: a place does not answer; it may, later.
    """

    def __init__(self, settings: OutputSettings, journal: Journal) -> None:
        self._journal = journal
        self._settings = settings.checkpoints
        self._is_first = distributed.rank() == 0
        self.places = RunPlaces(settings)
        self._lineage = Lineage(new_run())
        self._snapshot: Snapshot | None = None
        self._writer: WriterProcess | None = None
        """The writer and its snapshot; None before the first save or `publish`."""
        self._requests: list[SaveRequest] = []
        """Saves of what is in the snapshot."""
        self._unsaved: set[_SaveId] = set()
        """Saves that failed, as far as the writer has answered."""
        self._best_score: float | None = None
        """Of the best checkpoint; None: to be looked up."""
        self._failures_in_a_row = 0
        self.committed: int | None = None
        """Step of the newest checkpoint that is in every place."""
        self.last: SaveOutcome | None = None
        """How the last save that ended went."""
        self._held_up: dict[_SaveId, float] = {}
        """Seconds that training stood still for the copy to memory, for each of `_requests`."""

    @property
    def folder(self) -> Path:
        """Local folder for log, metrics and results: what is written there and published is in every place."""
        return self.places.folder

    @property
    def run(self) -> str:
        """The name of the run, as the first process knows it; empty before it has one."""
        return self._lineage.run or ""

    # ------------------------------------------------------------------------------------------------------- starting

    def find_start(self, resume: str) -> Start | None:
        """The checkpoint to go on from, or None to start anew; the same on every process.

        Args:
            resume: auto: the newest whole checkpoint in this run's places; never: none, and what is there is set aside;
                otherwise the folder of a checkpoint or run. A run that has gone on from that folder already, and was
                restarted, goes on from its own newest checkpoint.

        Raises:
            UserError: there are checkpoints and none is whole, or no such folder.
        """
        if self._is_first:
            with open_lock(str(self.folder)) as lock:  # Wait for a save that an earlier start still has under way.
                is_ours = take_lock(lock, seconds=1.0)
                if not is_ours:
                    self._notice(f"an earlier start still saves to {self.folder}; waiting for it, at most a minute")
                if not is_ours and not take_lock(lock):
                    self._notice(f"another process still saves to {self.folder}; going on beside it")
            self._lineage = find_lineage(self.places.all, self.folder, resume, self._journal)
        return _share_start(self._lineage.checkpoint)

    @contextmanager
    def no_trace_if_refused(self) -> Iterator[None]:
        """A block before the run begins: where it is refused in here, no name of the run is left in stores."""
        try:
            yield
        except UserError:
            if self._is_first:
                withdraw_name(self._lineage, self.places.all)
            raise

    def restore(self, start: Start | None, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Set parameters and optimizer state, on every process, from what the first one read; None: nothing to do.

        Raises:
            UserError: the checkpoint is of another model or optimizer.
        """
        if start is None:
            return
        if start.checkpoint is not None:
            load_model(start.checkpoint, model)
            if optimizer is not None:
                load_optimizer(start.checkpoint, optimizer)
                self._lineage = make_room(self._lineage, self.places.all)  # nothing has moved if it did not fit
        for parameter in model.parameters():
            distributed.broadcast(parameter.detach())
        if optimizer is not None and distributed.world_size() > 1:
            share_optimizer_state(optimizer, start.source)

    # --------------------------------------------------------------------------------------------------------- saving

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Make a checkpoint of outer step `step`; returns after a copy to memory.

        One save is under way at a time: the next one waits for it, and says so. All processes call this, and wait with
        the first one, whatever --collective-timeout is.

        Args:
            optimizer: its groups carry `names`, in the order of their `params`.
            state: JSON values to keep beside the tensors.

        Raises:
            UserError, StoreUnavailable: too many saves failed in a row, or a place belongs to another run.
        """
        with distributed.others_wait():
            if self._is_first:
                self._wait_for_writer(step)
        if not self._is_first:
            return
        began = time.monotonic()
        snapshot = self._open_snapshot()
        snapshot.take({MODEL: model_tensors(model), OPTIMIZER: optimizer_tensors(optimizer)})
        self._requests, self._held_up = [], {}
        retention = Retention(self._settings.keep_last, self._settings.keep_every, self._lineage.step)
        places = tuple(self.places.all)
        self._request(SaveRequest(step, snapshot.layout, self._with_origin(state), places, retention), began)

    def save_best(self, step: int, model: nn.Module, state: Mapping[str, Any], score: float) -> None:
        """Keep the model of outer step `step`, without optimizer, in place of the best one so far (folder `best`)."""
        with distributed.others_wait():
            if self._is_first:
                self._save_best(step, model, state, score)

    def _save_best(self, step: int, model: nn.Module, state: Mapping[str, Any], score: float) -> None:
        began = time.monotonic()
        if not self._requests or self._requests[-1].step != step:
            self._wait_for_writer(step)
            began = time.monotonic()
            self._open_snapshot().take({MODEL: model_tensors(model)})
            self._requests, self._held_up = [], {}
        layout = {MODEL: self._open_snapshot().layout[MODEL]}
        places = tuple(self.places.best)
        self._request(SaveRequest(step, layout, self._with_origin(state), places, retention=None, score=score), began)

    def save_if_best(self, step: int, model: nn.Module, state: Mapping[str, Any], score: float) -> None:
        """`save_best` where `score` is above that of the best checkpoint there is, of this start or an earlier one."""
        self.poll()
        with distributed.others_wait():
            if not self._is_first:
                return
            if self._best_score is None:
                best = newest_checkpoint(self.places.best, self._journal.emit, WEIGHTS)
                self._best_score = -math.inf if best is None or best.manifest.score is None else best.manifest.score
            if score > self._best_score:
                self._save_best(step, model, state, score)
                self._best_score = score

    def best(self) -> Start | None:
        """The best checkpoint so far, for `restore`, once every save is written; the same on every process."""
        best = None
        with distributed.others_wait():
            if self._is_first:
                if self._writer is not None:
                    self._finish_saves(self._writer)
                best = newest_checkpoint(self.places.best, self._journal.emit, WEIGHTS)
        return _share_start(best)

    def publish(self, *names: str) -> None:
        """Send these files of `folder` (names or patterns), and again whenever they change, to every other place."""
        if self._is_first:
            self._open_writer().mirror(names)

    def poll(self) -> None:
        """Report how earlier saves went, without waiting.

        Raises:
            UserError, StoreUnavailable: as `save`.
        """
        if self._writer is not None:
            self._report(self._writer.outcomes(wait=False))

    def hurry(self) -> None:
        """Let the writer wait for stores that are away only for seconds. A signal handler may call it."""
        if self._writer is not None:
            self._writer.hurry()

    def close(self) -> None:
        """Wait until the last checkpoint and all small files are in every place; a save that failed is tried again.

        Raises:
            UserError, StoreUnavailable: they cannot be brought there.
        """
        problems: list[str] = []
        with distributed.others_wait():
            if self._writer is not None:
                try:
                    self._finish_saves(self._writer)
                    self._journal.emit(PhaseChanged("ended"))  # before the last copies, so that these say so, too
                    problems = self._writer.flush()
                finally:
                    self._end_writer()
        if not self._is_first:
            self._journal.emit(PhaseChanged("ended"))  # what the pod of this process shows stays, too
        if problems:
            raise storage.StoreUnavailable("; ".join(problems))
        self.places.remove_temporary()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        else:
            self._end_writer()  # what is under way is finished; the error that ends the run is the one to show

    # -------------------------------------------------------------------------------------------------------- details

    def _open_snapshot(self) -> Snapshot:
        self._open_writer()
        assert self._snapshot is not None, "a writer has a snapshot"
        return self._snapshot

    def _open_writer(self) -> WriterProcess:
        if self._writer is None:
            self._lineage = make_room(self._lineage, self.places.all)
            run = self._lineage.run
            assert run is not None, "make_room names the run"
            self._snapshot = Snapshot()
            setup = WriterSetup(
                run=run,
                attempt=new_attempt(run),
                world_size=distributed.world_size(),
                memory=self._snapshot.handle,
                scratch=str(self.places.temporary or self.folder),
                damaged=self._lineage.damaged,
                start_step=self._lineage.step or 0,
                mirror_from=str(self.folder),
                mirror_to=tuple(self.places.mirrors),
            )
            self._writer = WriterProcess(setup)
            self._writer.mirror((LOG, METRICS))
        return self._writer

    def _end_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._snapshot is not None:
            self._snapshot.close()
        self._writer = self._snapshot = None

    def _with_origin(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {**state, "origin": self._lineage.origin}

    def _request(self, request: SaveRequest, began: float) -> None:
        """Hand a save to the writer. Training has stood still for it since `began` (time.monotonic)."""
        self._requests.append(request)
        self._open_writer().save(request)
        self._held_up[_SaveId(request.step, request.place)] = time.monotonic() - began

    def _wait_for_writer(self, step: int) -> None:
        """Wait until no save is under way."""
        if self._writer is None:
            return
        self._report(self._writer.outcomes(wait=False))
        if self._writer.is_busy:
            began = time.monotonic()
            outcomes = self._writer.outcomes(wait=True)
            waited = time.monotonic() - began
            if waited >= _NOTICEABLE_WAIT:
                self._journal.emit(Waited(step, waited, "earlier_save"))
            self._report(outcomes)

    def _finish_saves(self, writer: WriterProcess) -> None:
        """Wait until everything in the snapshot is saved. Failed saves, even old ones, are tried again."""
        self._report(writer.outcomes(wait=True))
        for request in self._requests:
            if _SaveId(request.step, request.place) in self._unsaved:
                self._notice(f"trying once more to save step {request.step}")
                writer.save(request)
        for outcome in self._report(writer.outcomes(wait=True)):
            raise _as_exception(outcome)

    def _report(self, outcomes: list[SaveOutcome]) -> list[SaveOutcome]:
        """Report how saves went; returns those that failed.

        Raises:
            UserError, StoreUnavailable: as `save`.
        """
        failed = [outcome for outcome in outcomes if outcome.error]
        for outcome in outcomes:
            self.last = outcome
            for event in (*outcome.saved_by_other, *outcome.cleanup_failures):
                self._journal.emit(event)
            save = _SaveId(outcome.step, outcome.place)
            if not outcome.error:
                self._failures_in_a_row = 0
                self._unsaved.discard(save)
                self.committed = outcome.step
                held_up, is_best = self._held_up.get(save, 0.0), outcome.place == ", ".join(self.places.best)
                self._journal.emit(Saved(*save, outcome.size, outcome.seconds, held_up, is_best, outcome.time))
                continue
            self._failures_in_a_row += 1
            self._unsaved.add(save)
            self._best_score = None  # the best one may not be there: looked up again
            allowed = self._settings.max_failed_saves
            self._journal.emit(SaveFailed(outcome.step, outcome.place, outcome.error, self._failures_in_a_row, allowed))
            if outcome.cause is FailureCause.OTHER_RUN or self._failures_in_a_row >= allowed:
                raise _as_exception(outcome)
        return failed

    def _notice(self, text: str) -> None:
        self._journal.emit(Notice(text))


def _share_start(checkpoint: Checkpoint | None) -> Start | None:
    """Where to start, on every process, from the checkpoint that the first one has found; others give None."""
    start = None
    if checkpoint is not None:
        start = Start(checkpoint.step, checkpoint.state, checkpoint.source, checkpoint=None)
    shared: Start | None = distributed.gather_objects(start)[0]
    return None if shared is None else replace(shared, checkpoint=checkpoint)


def _as_exception(outcome: SaveOutcome) -> Exception:
    text = f"the checkpoint of step {outcome.step} cannot be written to {outcome.place}: {outcome.error}"
    if outcome.cause in (FailureCause.UNAVAILABLE, FailureCause.DIED):
        return storage.StoreUnavailable(f"{text}. The run goes on from the checkpoint before when it is started again")
    return UserError(f"{text}; make room or choose other places, and start again: it goes on from the one before")
