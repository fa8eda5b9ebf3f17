"""Where the values of metrics are kept: in memory, or in files from which another process reads them.

The files are those of prometheus_client's multiprocess mode, so that its `MultiProcessCollector` reads them. Its own
classes do not write them here, for three reasons. They find their folder in a variable that a user or a base image may
set for another program. They keep the files of the first folder open for as long as the process lives. And they map
files that have no blocks on the disk yet, so a disk that is full kills the process (SIGBUS).
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from cclm.metrics.catalogue import Kind, Metric

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

log = logging.getLogger(__name__)

_FIRST_SIZE = 1 << 13
"""Bytes of a new file. It holds what a loader process counts. The first process of a pod needs some 70 kB."""
_ZEROS = bytes(1 << 12)
GAUGE_FILES = "gauge_livemostrecent"
"""How the name of a file with gauges begins: of several processes' values, the newest is exported."""
COUNTER_FILES = "counter"
"""How the name of a file with counters begins: values of several processes are added up."""

ABSENT = -math.inf
"""Value of a gauge in a file: this series is not shown any more. No series can be taken out of a file."""

Labels = tuple[str, ...]


class Values(Protocol):
    """Keeps the values of metrics."""

    def set(self, metric: Metric, labels: Labels, value: float) -> None:
        """Set a gauge."""

    def add(self, metric: Metric, labels: Labels, amount: float) -> None:
        """Add to a counter, which begins with 0."""

    def set_all(self, metric: Metric, values: Mapping[Labels, float]) -> None:
        """Set a gauge, and forget all its series but these."""

    def forget_gauges(self, keep: Collection[Metric] = ()) -> None:
        """Remove all gauges but these: they are no longer true."""


class MemoryValues:
    """Values of a process that serves them itself; a collector of prometheus_client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a scrape has a thread of its own
        self._values: dict[Metric, dict[Labels, float]] = {}

    def set(self, metric: Metric, labels: Labels, value: float) -> None:
        with self._lock:
            self._values.setdefault(metric, {})[labels] = value

    def add(self, metric: Metric, labels: Labels, amount: float) -> None:
        with self._lock:
            values = self._values.setdefault(metric, {})
            values[labels] = values.get(labels, 0.0) + amount

    def set_all(self, metric: Metric, values: Mapping[Labels, float]) -> None:
        with self._lock:
            self._values[metric] = dict(values)

    def forget_gauges(self, keep: Collection[Metric] = ()) -> None:
        with self._lock:
            self._values = {
                metric: values
                for metric, values in self._values.items()
                if metric.kind is Kind.COUNTER or metric in keep
            }

    def collect(self) -> Iterator[Family]:
        with self._lock:
            kept = {metric: dict(values) for metric, values in self._values.items()}
        for metric, values in kept.items():
            family = GaugeMetricFamily if metric.kind is Kind.GAUGE else CounterMetricFamily
            made = family(metric.name, metric.help, labels=metric.labels)
            for labels, value in values.items():
                made.add_metric(labels, value)
            yield made


class FileValues:
    """Values of this process, in a file for its gauges and a file for its counters.

    A process that is forked off begins files of its own. A disk that takes no more ends no process: values that have a
    place in a file are kept up to date, there are no new ones, and that is one warning.

    Args:
        folder: of the files of all processes.
        allocate: makes a file as long as it is told, and raises OSError where the disk does not have that much.
    """

    def __init__(self, folder: str, allocate: Callable[[IO[bytes], int], None] | None = None) -> None:
        self.folder = folder
        self._allocate = allocate_blocks if allocate is None else allocate
        self._lock = threading.Lock()
        self._keys: dict[tuple[str, Labels], str] = {}
        self._pid = os.getpid()
        self._files: dict[Kind, _ValueFile] = {}
        self._is_full = False

    def set(self, metric: Metric, labels: Labels, value: float) -> None:
        self._write(metric, labels, lambda file, key: file.put(key, value, time.time()))

    def add(self, metric: Metric, labels: Labels, amount: float) -> None:
        self._write(metric, labels, lambda file, key: file.put(key, file.value(key) + amount, 0.0))

    def set_all(self, metric: Metric, values: Mapping[Labels, float]) -> None:
        for labels in self._shown(metric) - values.keys():
            self.set(metric, labels, ABSENT)
        for labels, value in values.items():
            self.set(metric, labels, value)

    def _shown(self, metric: Metric) -> frozenset[Labels]:
        """The labels of the series of a gauge that have their place in the file."""
        with self._lock:
            series = [labels for name, labels in self._keys if name == metric.name]
            return frozenset(each for each in series if self._has_place(Kind.GAUGE, self._key(metric, each)))

    def forget_gauges(self, keep: Collection[Metric] = ()) -> None:
        kept = [(metric, labels, self._value(metric, labels)) for metric in keep for labels in self._shown(metric)]
        with self._lock:
            if (file := self._files.pop(Kind.GAUGE, None)) is not None:
                file.close()
                Path(file.path).unlink(missing_ok=True)
        for metric, labels, value in kept:
            self.set(metric, labels, value)

    def _value(self, metric: Metric, labels: Labels) -> float:
        with self._lock:
            return self._files[Kind.GAUGE].value(self._key(metric, labels))

    def close(self) -> None:
        """Close the files. What is kept later goes into them again."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def _write(self, metric: Metric, labels: Labels, write: Callable[[_ValueFile, str], None]) -> None:
        refusal: OSError | None = None
        with self._lock:
            if self._pid != os.getpid():  # forked off
                self._pid, self._is_full = os.getpid(), False
                self._files.clear()
            try:
                key = self._key(metric, labels)
                if not self._is_full or self._has_place(metric.kind, key):
                    write(self._file(metric.kind), key)
            except OSError as error:
                self._is_full, refusal = True, error
        if refusal is not None:
            # Without the folder, the launcher has ended, and a last save still goes on.
            level = logging.DEBUG if isinstance(refusal, FileNotFoundError) else logging.WARNING
            reason = refusal.strerror or str(refusal)
            log.log(level, "metrics are not complete: %s takes no more values (%s)", self.folder, reason)

    def _has_place(self, kind: Kind, key: str) -> bool:
        return kind in self._files and self._files[kind].has(key)

    def _file(self, kind: Kind) -> _ValueFile:
        if kind not in self._files:
            prefix = GAUGE_FILES if kind is Kind.GAUGE else COUNTER_FILES
            self._files[kind] = _ValueFile(os.path.join(self.folder, f"{prefix}_{self._pid}.db"), self._allocate)
        return self._files[kind]

    def _key(self, metric: Metric, labels: Labels) -> str:
        key = self._keys.get((metric.name, labels))
        if key is None:
            family = metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name
            key = mmap_key(family, metric.name, list(metric.labels), list(labels), metric.help)
            self._keys[metric.name, labels] = key
        return key


class _ValueFile(MmapedDict):
    """A file of values, all of whose blocks are on the disk before they are mapped.

    Raises:
        OSError: the disk does not have them.
    """

    def __init__(self, path: str, allocate: Callable[[IO[bytes], int], None]) -> None:
        self.path = path
        self._allocate = allocate
        with open(path, "ab") as file:
            if file.tell() < _FIRST_SIZE:
                allocate(file, _FIRST_SIZE)
        super().__init__(path)  # type: ignore[no-untyped-call]  # untyped in prometheus_client

    def has(self, key: str) -> bool:
        """Whether the value has its place in the file."""
        return key in self._positions

    def value(self, key: str) -> float:
        """0 for one that is new, which gets its place."""
        value, _ = self.read_value(key)  # type: ignore[no-untyped-call]  # untyped in prometheus_client
        return float(value)

    def put(self, key: str, value: float, timestamp: float) -> None:
        """Write a value; of several processes' gauges, the one with the latest timestamp (Unix time) is exported."""
        self.write_value(key, value, timestamp)  # type: ignore[no-untyped-call]  # untyped in prometheus_client

    def close(self) -> None:
        super().close()  # type: ignore[no-untyped-call]  # untyped in prometheus_client

    def _init_value(self, key: str) -> None:
        needed = self._used + len(key.encode()) + 32  # its length, up to 8 bytes of padding, and two doubles
        size = self._capacity
        while size < needed:
            size *= 2
        if size > self._capacity:
            with open(self.path, "ab") as file:
                self._allocate(file, size)
        super()._init_value(key)  # type: ignore[no-untyped-call]  # untyped in prometheus_client


class ValueReader:
    """Reads files of values. One that cannot be read is passed over, and that is said once.

    A process that is killed may leave an empty file, and a machine that stops a file that is cut off.
    """

    def __init__(self) -> None:
        self._reported: set[str] = set()

    def read(self, paths: Iterable[Path]) -> list[Family]:
        """The values of all files together."""
        files = [str(path) for path in paths if _has_values(path)]
        try:
            return _merge(files)
        except Exception:  # what is wrong with a file can show in many ways
            return _merge([file for file in files if self._is_readable(file)])

    def _is_readable(self, file: str) -> bool:
        try:
            _merge([file])
        except Exception as error:
            if file not in self._reported:
                self._reported.add(file)
                log.warning("metrics are not complete: %s cannot be read (%s)", file, error)
            return False
        return True


def _has_values(path: Path) -> bool:
    """Whether the process that began the file has come to write a value."""
    try:
        return path.stat().st_size >= _FIRST_SIZE
    except OSError:  # removed by another scrape
        return False


def _merge(files: list[str]) -> list[Family]:
    families = list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]  # untyped in prometheus_client
    for family in families:
        family.samples = [sample for sample in family.samples if sample.value != ABSENT]
    return families


def allocate_blocks(file: IO[bytes], size: int) -> None:
    """Extend a file that is open for appending to `size` bytes. Zeros are written, so that the disk has their blocks.

    Raises:
        OSError: the disk does not take them.
    """
    while (missing := size - file.tell()) > 0:
        file.write(_ZEROS[:missing])
        file.flush()


_of_process: FileValues | None = None


def values_of_process(folder: str) -> FileValues:
    """The values of this process in a folder. All users of the same folder share them, as they share the files."""
    global _of_process
    if _of_process is None or _of_process.folder != folder:
        if _of_process is not None:
            _of_process.close()
        _of_process = FileValues(folder)
    return _of_process
