"""The process that writes checkpoints and sends small files as training goes on: `python -m cclm.checkpoints.writer`.

A process of its own, since a thread would take the loop's interpreter lock (a third to a half of its speed, measured)
and since file systems with threads do not survive a fork. It imports no torch. It reads orders, one JSON line each,
from stdin, answers in the same way on stdout, and ends when stdin does: a save that is under way when the training
process dies is finished. SIGTERM and SIGINT go to whole process groups; it ignores them, as the last save is still to
come.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors import SafetensorError, TensorSpec, serialize_file

from cclm import storage
from cclm.checkpoints import manifest as manifests
from cclm.checkpoints.commit import OtherRunError, Staged, commit, file_entry, is_committed, remove_files
from cclm.checkpoints.manifest import STATE, FileEntry, Manifest, file_name, folder_name
from cclm.checkpoints.mirror import Mirror
from cclm.checkpoints.retention import Retention, keep_only, prune

LOCK = ".writer.lock"
"""File of a run's local folder that its writer keeps locked."""


@dataclass
class Setup:
    """What stays the same from save to save."""

    run: str
    attempt: str
    world_size: int
    memory: int
    """File descriptor of the snapshot."""
    scratch: str
    """Local folder for checkpoints that no local place keeps."""
    damaged: tuple[str, ...] = ()
    mirror_from: str = ""
    """Local folder of log, metrics and results."""
    mirror_to: tuple[str, ...] = ()
    lock: int | None = None
    """File descriptor of `LOCK` in that folder; None: it could not be opened."""


@dataclass(frozen=True)
class Order:
    """One checkpoint to write."""

    step: int
    layout: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Role -> tensor -> dtype, shape, start, size (`snapshot.TensorPlace`)."""
    state: Mapping[str, Any]
    places: tuple[str, ...]
    """Run folders, local ones first."""
    retention: Retention | None
    """None: this one replaces all others of the run (the best)."""
    score: float | None = None


@dataclass
class Outcome:
    """How a save went."""

    step: int
    place: str = ""
    seconds: float = 0.0
    staging_seconds: float = 0.0
    """Of these, until the files were on the local disk."""
    size: int = 0
    """Bytes of one copy."""
    error: str = ""
    """Empty: it is committed in every place."""
    cause: str = ""
    """unavailable: the store may come back; other_run; user: somebody has to act."""
    notes: list[str] = field(default_factory=list)


def write(order: Order, setup: Setup, notes: list[str]) -> Iterator[str]:
    """Write a checkpoint to its places; yields the name of each phase that ended.

    Raises:
        OSError, SafetensorError: a disk or store does not take it.
        OtherRunError: a place belongs to another run.
    """
    local = next((place for place in order.places if storage.is_local(place)), None)
    root = Path(setup.scratch if local is None else storage.local_path(local))
    folder = root / folder_name(order.step)
    staged = None
    pool = ThreadPoolExecutor(1)
    try:
        staged = yield from stage(order, setup, folder, pool, is_kept=local is not None)
        for place in order.places:
            for phase in commit(staged, storage.join(place, folder_name(order.step)), frozenset(setup.damaged)):
                yield f"{place}: {phase}"
                if phase == "committed by another attempt":
                    notes.append(f"step {order.step} was already saved to {place} by another attempt of this run")
    except FileNotFoundError:
        # Another attempt that made the same checkpoint first takes our files for leftovers.
        if not all(is_committed(storage.join(place, folder_name(order.step)), setup.run) for place in order.places):
            raise
        notes.append(f"step {order.step} was saved by another attempt of this run meanwhile")
    except BaseException:
        if staged is not None and local is not None and not (folder / manifests.MANIFEST).exists():
            remove_files(str(folder), staged.names.values())
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        if local is None:
            shutil.rmtree(folder, ignore_errors=True)


def stage(order: Order, setup: Setup, folder: Path, pool: ThreadPoolExecutor, is_kept: bool) -> Iterator[str]:
    """Write the files of a checkpoint into a local folder; returns them with what their manifest needs.

    Checksums are made by `pool` meanwhile, and while files are synced and sent: most of that time is waiting.

    Args:
        is_kept: this is one of the places, so the files are synced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    roles = [*order.layout, STATE]
    paths = {role: folder / file_name(role, setup.attempt) for role in roles}
    entries: dict[str, Future[FileEntry]] = {}
    try:
        paths[STATE].write_text(json.dumps(order.state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for role, tensors in order.layout.items():
            _write_tensors(paths[role], tensors, setup.memory)
            paths[role].chmod(paths[STATE].stat().st_mode)  # they are made for their owner's eyes alone
            entries[role] = pool.submit(file_entry, paths[role])
            yield f"{role} staged"
        entries[STATE] = pool.submit(file_entry, paths[STATE])
        for each in (*paths.values(), folder, folder.parent) if is_kept else ():
            _sync(each)
        yield "staged"
    except BaseException:
        for path in paths.values():
            path.unlink(missing_ok=True)
        raise
    head = Manifest(setup.run, setup.attempt, order.step, setup.world_size, {}, order.score)
    return Staged(folder, {role: path.name for role, path in paths.items()}, entries, head)


def _write_tensors(path: Path, tensors: Mapping[str, Mapping[str, Any]], memory: int) -> None:
    if not tensors:
        serialize_file({}, path)
        return
    with mmap.mmap(memory, os.fstat(memory).st_size) as mapped:
        address = np.frombuffer(mapped, dtype=np.uint8).ctypes.data
        specs = {
            name: TensorSpec(
                dtype=place["dtype"],
                shape=list(place["shape"]),
                data_ptr=address + place["start"],
                data_len=place["size"],
            )
            for name, place in tensors.items()
        }
        serialize_file(specs, path)


def _sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network mounts do not know it for folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS) or not path.is_dir():
            raise
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------------------------------ the process


def open_lock(folder: str) -> TextIO:
    """`LOCK` of a run's local folder, for `take_lock`."""
    return open(Path(folder) / LOCK, "a")  # noqa: SIM115 - closed by the caller


def take_lock(lock: TextIO, seconds: float = 60.0) -> bool:
    """Wait until no other writer of this machine works on a folder, not for ever; it is ours till all ends are closed.

    A writer outlives its training process to finish a save: whoever starts the run again wants to find that one.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return True


class Writer:
    """Takes orders until stdin ends."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._mirror = Mirror(setup.mirror_from, setup.mirror_to)
        self._layout: Mapping[str, Any] = {}
        self._resumed_from: dict[str, int | None] = {}
        """By place: what retention must still protect there."""

    def save(self, order: Order) -> Outcome:
        """Write, then tidy up; what goes wrong becomes words."""
        outcome = Outcome(order.step, ", ".join(order.places))
        began = time.monotonic()
        try:
            for phase in write(order, self._setup, outcome.notes):
                if phase == "staged":
                    outcome.staging_seconds = time.monotonic() - began
            outcome.size = sum(place["size"] for tensors in order.layout.values() for place in tensors.values())
            outcome.seconds = time.monotonic() - began
            self._prune(order, outcome)
        except OtherRunError as error:
            outcome.error, outcome.cause = str(error), "other_run"
        except storage.StoreUnavailable as error:
            outcome.error, outcome.cause = str(error), "unavailable"
        except (OSError, SafetensorError) as error:
            outcome.error, outcome.cause = str(error), "user"
        return outcome

    def _prune(self, order: Order, outcome: Outcome) -> None:
        for place in order.places:
            if order.retention is None:
                keep_only(place, self._setup.run, order.step, outcome.notes.append)
                continue
            rule = replace(order.retention, resumed_from=self._resumed_from.get(place, order.retention.resumed_from))
            rule = prune(place, self._setup.run, rule, outcome.notes.append, saved=order.step)
            self._resumed_from[place] = rule.resumed_from

    def serve(self) -> None:
        """Orders in, outcomes out; small files in between."""
        for line in _lines(self._mirror):
            message = json.loads(line)
            if "layout" in message:
                self._layout = message["layout"]
            if "save" in message:
                _answer({"saved": asdict(self.save(self._order(message["save"])))})
            if "mirror" in message:
                self._mirror.names.update(message["mirror"])
            if message.get("flush"):
                _answer({"flushed": self._mirror.send_all()})
        self._mirror.send_all()

    def _order(self, values: dict[str, Any]) -> Order:
        layout = {role: self._layout[role] for role in values.pop("roles")}
        retention, places = values.pop("retention"), tuple(values.pop("places"))
        return Order(layout=layout, places=places, retention=retention and Retention(**retention), **values)


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
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def give_way() -> None:
    """Let the loop's processes go first: this one runs beside them, and never in the middle of them.

    SCHED_BATCH, where the system has it: waking up for each block that a store takes, it waits for a free core or its
    turn. Its share must not be nothing, as SCHED_IDLE's would be beside busy loader processes: saves have to end.
    """
    os.nice(10)
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main() -> None:
    """Serve the process that started this one."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    give_way()
    setup = Setup(**json.loads(sys.argv[1]))
    tempfile.tempdir = setup.scratch
    with contextlib.ExitStack() as held:
        if setup.lock is not None:
            os.set_inheritable(setup.lock, False)  # nothing that a store's library starts may hold it for longer
            take_lock(held.enter_context(open(setup.lock, "a")))
        Writer(setup).serve()


if __name__ == "__main__":
    main()
