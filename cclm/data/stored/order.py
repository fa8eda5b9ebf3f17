"""The order of samples: which record is at which place of which batch. Pure arithmetic, without files.

    N  records of a source          G  slots = records of a global batch
    e  epoch, from 0                b  batch, from 0, over all epochs

A chunk is a number of neighbouring records of one file. An epoch is all N records once: its chunks, in an order drawn
from (seed, source, epoch). The epochs follow each other in one endless stream: place q of the stream is place q mod N
of epoch q div N.

The stream is read in stretches. Stretch e is the batches floor(eN/G) <= b < floor((e+1)N/G). With S of them, it covers
S * G places without a gap, and these are cut into G slices of S places. **Slot s reads slice s from its start to its
end**, one record a batch. At the end of an epoch, R = N mod G records may not fill a batch. They are the first places
of the next stretch. So every record of every epoch is read exactly once. With G > N a batch spans several epochs.

Inside a slice, the records of one chunk are a run. A run is contiguous in the file, so that it can be fetched by one
read. Its records come in an order drawn from (seed, source, epoch, start of the run).

Rank r of W owns the slots [rG/W, (r+1)G/W). The order itself does not depend on ranks, workers or restarts, so the
sequence of global batches is the same for any number of them. Random orders come from sorting raw Philox words, which
are the same in every version of numpy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cclm.data.stored.chunks import ChunkCut, EpochChunks
from cclm.errors import UserError

CHUNK_BYTES = 4 << 20  # of one read: large enough to pay for a request to a store; each slot holds one in memory
CHUNKS_PER_SLOT = 8  # at least: also with few records, a batch then has records from many places of the files
_CHUNK_STREAM, _RUN_STREAM = 0, 1  # separate random streams under one seed


@dataclass(frozen=True, slots=True)
class RecordRef:
    """One record at one place of the stream."""

    file: int
    record: int
    """Index of the record in its file."""
    number: int
    """Index over all files. It identifies the record, and its random numbers are derived from it."""
    epoch: int
    run: tuple[int, int]  # a bare tuple, as it is made anew for every record
    """The records [first, last) of the file that are the run."""
    left: int
    """How many records of the run come after this one."""


class _Run(NamedTuple):
    """The records of a chunk that lie in a slot's slice."""

    start: int
    """Place of the stream at which the run starts."""
    end: int
    """Place after its last one."""
    epoch: int
    file: int
    first: int
    """Its first record in the file."""
    order: NDArray[np.int32]
    """(records of the run,): which of its records comes first, second ..."""


class SampleOrder:
    """The order of the samples of one source, with random access.

    Args:
        records: number of records of each file.
        sizes: bytes of each file.
        batch_size: records of a global batch.
        seed: seed of the run.
        source: number of the source, so that the sources of a run have different random orders.
    """

    def __init__(self, records: Sequence[int], sizes: Sequence[int], batch_size: int, seed: int, source: int) -> None:
        self.num_records = sum(records)
        self.batch_size = batch_size
        self._seed, self._source = seed, source
        self._file_starts = np.concatenate([[0], np.cumsum(records)]).astype(np.int64)
        most = max(1, self.num_records // (CHUNKS_PER_SLOT * batch_size))
        chunk_sizes = [
            min(most, max(1, CHUNK_BYTES * count // max(size, 1))) for count, size in zip(records, sizes, strict=True)
        ]
        self._cut = ChunkCut(records, chunk_sizes)
        self._epochs: OrderedDict[int, EpochChunks] = OrderedDict()
        self._runs: dict[int, _Run] = {}  # slot -> its current run
        self._most = 64  # pieces of an epoch that are kept in memory

    def __getstate__(self) -> dict[str, Any]:
        """Without what was computed from it: a loader process gets little to read, and computes its own part."""
        return {**self.__dict__, "_epochs": OrderedDict(), "_runs": {}}

    @property
    def num_chunks(self) -> int:
        """Chunks of an epoch."""
        return len(self._cut)

    @property
    def layout(self) -> str:
        """A checksum of how the files are cut: the records of each chunk of each file. The order depends on it."""
        return f"{self._cut.checksum():08x}"

    def first_batch(self, epoch: int) -> int:
        """The first batch of stretch `epoch`. Its first slots begin with what the epoch before left over."""
        return epoch * self.num_records // self.batch_size

    def stretch_of(self, batch: int) -> int:
        """The stretch that a batch belongs to."""
        # the largest e with floor(eN/G) <= b, that is eN < (b+1)G
        return ((batch + 1) * self.batch_size - 1) // self.num_records

    def records_of(self, batch: int, slots: range) -> list[RecordRef]:
        """The records of `slots` in global batch `batch`: one for each slot, in the order of the slots."""
        stretch = self.stretch_of(batch)
        first = self.first_batch(stretch)
        length = self.first_batch(stretch + 1) - first  # S
        place = batch - first
        starts = [first * self.batch_size + slot * length for slot in slots]
        if self._lacks_runs(slots, starts, place):
            self._prepare([start + place for start in starts])
        return [self._at(slot, start, length, place) for slot, start in zip(slots, starts, strict=True)]

    def _lacks_runs(self, slots: range, starts: list[int], place: int) -> bool:
        """Whether some slot has come to another run."""
        runs = self._runs
        return any(
            slot not in runs or not runs[slot].start <= start + place < runs[slot].end
            for slot, start in zip(slots, starts, strict=True)
        )

    def _prepare(self, places: list[int]) -> None:
        """Compute what the places of the stream need together; one by one would take much longer."""
        by_epoch: dict[int, list[int]] = {}
        for place in places:
            epoch, within = divmod(place, self.num_records)
            by_epoch.setdefault(epoch, []).append(within)
        for epoch, of_epoch in by_epoch.items():
            self._most = max(self._most, 2 * len(of_epoch))
            self._epoch(epoch).prepare(of_epoch, self._most)

    def _at(self, slot: int, slice_start: int, length: int, place: int) -> RecordRef:
        """The record at `place` of the slot's slice, which is the places [slice_start, slice_start + length)."""
        at = slice_start + place
        run = self._runs.get(slot)
        if run is None or not run.start <= at < run.end:
            run = self._runs[slot] = self._run(at, slice_start, slice_start + length)
        record = run.first + int(run.order[at - run.start])
        number = int(self._file_starts[run.file]) + record
        records = (run.first, run.first + run.end - run.start)
        return RecordRef(run.file, record, number, run.epoch, records, run.end - at - 1)

    def _run(self, at: int, slice_start: int, slice_end: int) -> _Run:
        """The run at a place of the stream, in a slice of it."""
        epoch, within = divmod(at, self.num_records)
        base = epoch * self.num_records
        chunk, begin, end = self._epoch(epoch).find(within)
        low, high = max(begin, slice_start - base), min(end, slice_end - base)  # the part that lies in this slice
        file = int(self._cut.files(np.array([chunk]))[0])
        first = self._cut.first_record(chunk, file) + low - begin
        order = np.argsort(self._words(_RUN_STREAM, epoch, base + low).random_raw(high - low), kind="stable")
        return _Run(base + low, base + high, epoch, file, first, order.astype(np.int32))

    def _epoch(self, epoch: int) -> EpochChunks:
        if epoch not in self._epochs:
            self._epochs[epoch] = EpochChunks(self._cut, partial(self._words, _CHUNK_STREAM, epoch, 0))
            if len(self._epochs) > 3:  # the current epoch, the one beside it, and one for replacements
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _words(self, stream: int, epoch: int, start: int) -> np.random.Philox:
        """Random words, drawn from (seed, source, stream, epoch, start). Sorting them gives a random order."""
        # The key and the upper words of the counter identify the draw. Its words count up from 0 in the lowest word.
        return np.random.Philox(
            key=np.array([self._seed % 2**64, self._source * 2 + stream], dtype=np.uint64),
            counter=np.array([0, start, epoch, 0], dtype=np.uint64),
        )


def slots_of_rank(where: str, batch_size: int, rank: int, world_size: int) -> range:
    """The slots that `rank` owns.

    Args:
        where: the config key of the batch size, for messages.

    Raises:
        UserError: the processes cannot have equally many slots.
    """
    if batch_size % world_size:
        raise UserError(
            f"{where} = {batch_size} cannot be shared evenly by {world_size} processes; "
            f"make it a multiple of {world_size} or change the number of processes"
        )
    each = batch_size // world_size
    return range(rank * each, (rank + 1) * each)


def split_slots(slots: range, part: int, parts: int) -> range:
    """`slots` cut into `parts` contiguous parts of nearly equal size; returns part number `part`."""
    bounds = [slots.start + len(slots) * i // parts for i in (part, part + 1)]
    return range(*bounds)
