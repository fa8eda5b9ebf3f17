"""The process that writes checkpoints and sends small files during training: `python -m cclm.checkpoints.writer`.

It is a process of its own for two reasons. A thread would take the training loop's interpreter lock (a third to a half
of the loop's speed, measured), and file systems with threads do not survive a fork. It imports no torch.

It reads messages from stdin, one JSON line each, answers in the same way on stdout, and ends when stdin does. So a save
that is under way when the training process dies is finished. SIGTERM and SIGINT go to whole process groups. They do not
end the writer, since the last save is still to come. After a SIGTERM, which the training process passes on, it waits
for a store that is away only for seconds.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, TensorSpec, serialize_file

from cclm import storage
from cclm.checkpoints import manifest as manifests
from cclm.checkpoints.commit import OtherRunError, Staged, commit, file_entry, is_committed, remove_files
from cclm.checkpoints.lock import take_lock
from cclm.checkpoints.manifest import STATE, FileEntry, Manifest, file_name, folder_name
from cclm.checkpoints.messages import (
    FailureCause,
    Layout,
    SaveOutcome,
    SaveRequest,
    TensorPlace,
    WriterSetup,
    layout_from_json,
)
from cclm.checkpoints.mirror import Mirror
from cclm.checkpoints.retention import has_newer, keep_only, prune
from cclm.events import SavedByOther
from cclm.metrics.store_metrics import store_metrics_of_process
from cclm.metrics.waiting import Waiter


def write(
    request: SaveRequest, setup: WriterSetup, saved_by_other: list[SavedByOther], mirror: Mirror
) -> Generator[str, None, int]:
    """Write a checkpoint to its places; yields the name of each phase that ended.

    A place where another process of the run has saved a later step is passed over.

    Log and metrics come to a place before the checkpoint does, unless another process has saved a later step there.
    A machine that dies takes those it has not sent with it, and a run that goes on from the checkpoint makes no line
    about earlier steps again.

    Args:
        saved_by_other: gets an event for each place that another attempt of the run was the first to fill, or where
            it is ahead.
        mirror: sends the small files.

    Returns:
        Bytes of the files of one copy that its manifest names; those of its tensors alone where another attempt has
        taken these files away before they were complete.

    Raises:
        OSError, SafetensorError: a disk or store does not take it.
        OtherRunError: a place belongs to another run.
    """
    local = next((place for place in request.places if storage.is_local(place)), None)
    root = Path(setup.scratch if local is None else storage.local_path(local))
    folder = root / folder_name(request.step)
    staged = None
    passed_over: list[str] = []
    pool = ThreadPoolExecutor(1)
    try:
        staged = yield from stage(request, setup, folder, pool, is_kept=local is not None)
        for place in request.places:
            mirror.send_to(place)  # what it cannot send, it sends later
            if _is_behind(request, setup, place):
                passed_over.append(place)
                saved_by_other.append(SavedByOther(request.step, place))
                continue
            for phase in commit(staged, storage.join(place, folder_name(request.step)), frozenset(setup.damaged)):
                yield f"{place}: {phase}"
                if phase == "committed by another attempt":
                    saved_by_other.append(SavedByOther(request.step, place))
    except FileNotFoundError:
        # Another attempt that made the same checkpoint first, or a later one, takes our files for leftovers.
        if not all(_is_saved_by_other(request, setup, place) for place in request.places):
            raise
        saved_by_other.append(SavedByOther(request.step))
    except BaseException:
        if staged is not None and local is not None and not (folder / manifests.MANIFEST).exists():
            remove_files(str(folder), staged.names.values())
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        if local is None:
            shutil.rmtree(folder, ignore_errors=True)
        elif staged is not None and local in passed_over:
            remove_files(str(folder), staged.names.values())
    if staged is None:
        return sum(place.size for tensors in request.layout.values() for place in tensors.values())
    return staged.size


def _is_saved_by_other(request: SaveRequest, setup: WriterSetup, place: str) -> bool:
    is_there = is_committed(storage.join(place, folder_name(request.step)), setup.run)
    return is_there or _is_behind(request, setup, place)


def _is_behind(request: SaveRequest, setup: WriterSetup, place: str) -> bool:
    """Whether another process of the run has saved a later step in a place.

    That process may have deleted its own checkpoint of this step. A new one would be in the way of its deletions, and
    nobody would go on from it. The best checkpoint is chosen by its score, so there a later one says nothing.
    """
    return request.retention is not None and has_newer(place, setup.run, request.step, setup.damaged)


def stage(
    request: SaveRequest, setup: WriterSetup, folder: Path, pool: ThreadPoolExecutor, is_kept: bool
) -> Generator[str, None, Staged]:
    """Write the files of a checkpoint into a local folder; returns them with what their manifest needs.

    `pool` computes the checksums in the meantime, and while files are synced and sent: most of that time is waiting.

    Args:
        is_kept: the folder is in one of the places, so the files are synced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    roles = [*request.layout, STATE]
    paths = {role: folder / file_name(role, setup.attempt) for role in roles}
    entries: dict[str, Future[FileEntry]] = {}
    try:
        paths[STATE].write_text(json.dumps(request.state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for role, tensors in request.layout.items():
            _write_tensors(paths[role], tensors, setup.memory)
            # safetensors makes files that only their owner may read.
            paths[role].chmod(paths[STATE].stat().st_mode)
            entries[role] = pool.submit(file_entry, paths[role])
            yield f"{role} staged"
        entries[STATE] = pool.submit(file_entry, paths[STATE])
        for each in (*paths.values(), folder, folder.parent) if is_kept else ():
            _sync(each)
        size = sum(path.stat().st_size for path in paths.values())
        yield "staged"
    except BaseException:
        for path in paths.values():
            path.unlink(missing_ok=True)
        raise
    head = Manifest(setup.run, setup.attempt, request.step, setup.world_size, {}, request.score)
    return Staged(folder, {role: path.name for role, path in paths.items()}, size, entries, head)


def _write_tensors(path: Path, tensors: Mapping[str, TensorPlace], memory: int) -> None:
    if not tensors:
        serialize_file({}, path)
        return
    with mmap.mmap(memory, os.fstat(memory).st_size) as mapped:
        address = np.frombuffer(mapped, dtype=np.uint8).ctypes.data
        specs = {
            name: TensorSpec(
                dtype=place.dtype, shape=list(place.shape), data_ptr=address + place.start, data_len=place.size
            )
            for name, place in tensors.items()
        }
        serialize_file(specs, path)


def _sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network mounts cannot sync folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS) or not path.is_dir():
            raise
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------------------------------ the process


class Writer:
    """Serves requests until stdin ends."""

    def __init__(self, setup: WriterSetup) -> None:
        self._setup = setup
        self._step = setup.start_step
        """The training process has done at least `step` outer steps, and log and metrics tell of all of them."""
        self.mirror = Mirror(setup.mirror_from, setup.mirror_to, self._is_behind)
        """Sends the small files."""
        self._layout: Layout = {}
        """Layout of every role, as last received."""
        self._resumed_from: dict[str, int | None] = {}
        """By place: the checkpoint that retention must still protect there."""

    def save(self, request: SaveRequest) -> SaveOutcome:
        """Write a checkpoint, then delete old ones. An error becomes a part of the outcome."""
        outcome = SaveOutcome(request.step, request.place)
        self._step = max(self._step, request.step)
        began = time.monotonic()
        try:
            for phase in self._write(request, outcome):
                if phase == "staged":
                    outcome.staging_seconds = time.monotonic() - began
            outcome.seconds, outcome.time = time.monotonic() - began, time.time()
            self._prune(request, outcome)
        except OtherRunError as error:
            outcome.error, outcome.cause = str(error), FailureCause.OTHER_RUN
        except storage.StoreUnavailable as error:
            outcome.error, outcome.cause = str(error), FailureCause.UNAVAILABLE
        except (OSError, SafetensorError) as error:
            outcome.error, outcome.cause = str(error), FailureCause.USER
        return outcome

    def _write(self, request: SaveRequest, outcome: SaveOutcome) -> Iterator[str]:
        outcome.size = yield from write(request, self._setup, outcome.saved_by_other, self.mirror)

    def _is_behind(self, place: str) -> bool:
        """Whether another process has saved a step of this run that this one has not come to.

        That process has sent its own log and metrics before, and the run goes on from there when it is started again.
        """
        return has_newer(place, self._setup.run, self._step, self._setup.damaged)

    def _prune(self, request: SaveRequest, outcome: SaveOutcome) -> None:
        retention = request.retention
        for place in request.places:
            if retention is None:
                keep_only(place, self._setup.run, request.step, outcome.cleanup_failures.append)
                continue
            rule = replace(retention, resumed_from=self._resumed_from.get(place, retention.resumed_from))
            rule = prune(place, self._setup.run, rule, outcome.cleanup_failures.append, saved=request.step)
            self._resumed_from[place] = rule.resumed_from

    def serve(self) -> None:
        """Read requests and answer with outcomes; send small files in between, and signs of life all the time."""
        with self.mirror.showing_life():
            for line in _lines(self.mirror):
                message = json.loads(line)
                if "layout" in message:
                    self._layout |= layout_from_json(message["layout"])
                if "save" in message:
                    outcome = self.save(SaveRequest.from_json(message["save"], self._layout))
                    _answer({"saved": asdict(outcome)})
                if "mirror" in message:
                    self.mirror.names.update(message["mirror"])
                if message.get("flush"):
                    _answer({"flushed": self.mirror.send_all()})
        self.mirror.send_all()


def _lines(mirror: Mirror) -> Iterator[bytes]:
    """Lines of stdin; while none comes, changed small files are sent now and then."""
    pending = b""
    while True:
        readable, _, _ = select.select([sys.stdin.fileno()], [], [], mirror.seconds_to_wait())
        if not readable:
            mirror.send_all()
            continue
        block = os.read(sys.stdin.fileno(), 2**16)
        if not block:
            return
        *lines, pending = (pending + block).split(b"\n")
        yield from lines


def _answer(message: Mapping[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the training process is gone: what is under way is finished all the same
        sys.stdout = open(os.devnull, "w")


def give_way() -> None:
    """Lower this process's priority: it runs beside the processes of the training loop, never instead of one of them.

    With SCHED_BATCH, where the system has it, this process waits for a free core or its turn each time it wakes up for
    a block that a store takes. SCHED_IDLE would be too little: beside busy loader processes it would leave this process
    no time at all, and saves have to end.
    """
    os.nice(10)
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main() -> None:
    """Serve the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: storage.hurry())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])  # blocked by the training process until now
    give_way()
    storage.set_observer(store_metrics_of_process(Waiter.WRITER))
    setup = WriterSetup(**json.loads(sys.argv[1]))
    tempfile.tempdir = setup.scratch
    with contextlib.ExitStack() as held:
        if setup.lock is not None:
            os.set_inheritable(setup.lock, False)  # nothing that a store's library starts may hold it for longer
            take_lock(held.enter_context(open(setup.lock, "a")))
        Writer(setup).serve()


if __name__ == "__main__":
    main()
