"""Which record stands at which place of which batch: pure arithmetic, no files, no state.

    N  records of a source          G  slots = records of a global batch
    e  epoch, from 0                b  batch, from 0, over all epochs

An epoch is all N records once: chunks (runs of neighbours in one file) in an order drawn from (seed, source, epoch).
Epochs follow each other in one endless stream; place q of the stream is place q mod N of epoch q div N.

Batches take whole stretches of that stream. Stretch e is the batches floor(eN/G) <= b < floor((e+1)N/G), S of them;
it covers S * G places without a gap and is cut into G slices of S places. **Slot s reads slice s from its start to its
end**, one record a batch. So the R = N mod G records that fill no batch at the end of an epoch open the first slices
of the next stretch, and every record of every epoch is read exactly once (with G > N a batch spans several epochs).

Inside a slice the records of one chunk are one run, contiguous in the file (fetched by one read), and stand in an
order drawn from (seed, source, epoch, start of the run).

Rank r of W owns the slots [rG/W, (r+1)G/W). Nothing here knows of ranks, workers or restarts, so the sequence of
global batches is the same for any number of them. Draws are raw Philox words ordered by value: the same in every
version of numpy.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cclm.errors import UserError

CHUNK_BYTES = 4 << 20  # one read: large enough to amortise a request to a store, small enough to keep one a slot
CHUNKS_PER_SLOT = 8  # at least, so that small data is mixed too: a batch draws on many places of the files
_CHUNK_STREAM, _RUN_STREAM = 0, 1  # separate random streams under one seed


@dataclass(frozen=True, slots=True)
class RecordRef:
    """One record at one place of the stream."""

    file: int
    record: int
    """Index of the record in its file."""
    number: int
    """Index over all files: identity of the record, from which its randomness is derived."""
    epoch: int
    run: tuple[int, int]
    """The records [first, last) of the file that this slot uses one after the other."""
    left: int
    """How many of them are still to come after this one."""


@dataclass(frozen=True, slots=True)
class _Epoch:
    chunks: np.ndarray
    """(C,) int64: chunk at each place of the epoch's order."""
    ends: np.ndarray
    """(C,) int64: places before the end of each of them."""


class SampleOrder:
    """Random access to the order of one source.

    `records` and `sizes`: records and bytes of each file. `source` tells the sources of a run apart.
    """

    def __init__(self, records: Sequence[int], sizes: Sequence[int], batch_size: int, seed: int, source: int) -> None:
        self.num_records = sum(records)
        self.batch_size = batch_size
        self._seed, self._source = seed, source
        self._file_starts = np.concatenate([[0], np.cumsum(records)]).astype(np.int64)
        most = max(1, self.num_records // (CHUNKS_PER_SLOT * batch_size))
        files, firsts, counts = [], [], []
        for file, (count, size) in enumerate(zip(records, sizes, strict=True)):
            chunk = min(most, max(1, CHUNK_BYTES * count // max(size, 1)))
            first = np.arange(0, count, chunk, dtype=np.int64)
            files.append(np.full(len(first), file, dtype=np.int64))
            firsts.append(first)
            counts.append(np.minimum(chunk, count - first))
        self._chunk_file = np.concatenate(files)
        self._chunk_first = np.concatenate(firsts)
        self._chunk_count = np.concatenate(counts)
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._runs: dict[int, tuple[int, np.ndarray]] = {}  # slot -> start and order of its present run

    @property
    def num_chunks(self) -> int:
        return len(self._chunk_file)

    @property
    def layout(self) -> str:
        """A checksum of what the order follows from besides its arguments: records of each file and of each chunk."""
        return f"{zlib.crc32(np.stack([self._chunk_file, self._chunk_count]).astype('<i8').tobytes()):08x}"

    def first_batch(self, epoch: int) -> int:
        """The batch with which stretch `epoch` starts; its first slots begin with what the epoch before left over."""
        return epoch * self.num_records // self.batch_size

    def stretch_of(self, batch: int) -> int:
        """The stretch that a batch belongs to."""
        # the largest e with floor(eN/G) <= b, that is eN < (b+1)G
        return ((batch + 1) * self.batch_size - 1) // self.num_records

    def records_of(self, batch: int, slots: range) -> list[RecordRef]:
        """The records of `slots` in global batch `batch`, one a slot, in the order of the slots."""
        stretch = self.stretch_of(batch)
        first = self.first_batch(stretch)
        length = self.first_batch(stretch + 1) - first  # S
        place = batch - first
        start = first * self.batch_size
        return [self._at(slot, start + slot * length, length, place) for slot in slots]

    def _at(self, slot: int, slice_start: int, length: int, place: int) -> RecordRef:
        """The record at `place` of the slot's slice, which covers stream places [slice_start, slice_start + length)."""
        epoch, within = divmod(slice_start + place, self.num_records)
        table = self._epoch(epoch)
        position = int(np.searchsorted(table.ends, within, side="right"))
        chunk = int(table.chunks[position])
        end = int(table.ends[position])
        begin = end - int(self._chunk_count[chunk])
        base = epoch * self.num_records
        low = max(begin, slice_start - base)  # the part of the chunk that lies in this slice
        high = min(end, slice_start + length - base)
        shuffled = self._run(slot, base + low, epoch, high - low)[within - low]
        file = int(self._chunk_file[chunk])
        run_first = int(self._chunk_first[chunk]) + low - begin
        record = run_first + int(shuffled)
        number = int(self._file_starts[file]) + record
        return RecordRef(file, record, number, epoch, (run_first, run_first + high - low), high - within - 1)

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            chunks = self._permutation(_CHUNK_STREAM, epoch, 0, self.num_chunks)
            self._epochs[epoch] = _Epoch(chunks, np.cumsum(self._chunk_count[chunks]))
            if len(self._epochs) > 3:  # an epoch, the one it borders, and one that replacements look into
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _run(self, slot: int, start: int, epoch: int, count: int) -> np.ndarray:
        """Order of the `count` records of the run that starts at stream place `start`."""
        known = self._runs.get(slot)
        if known is None or known[0] != start:
            known = start, self._permutation(_RUN_STREAM, epoch, start, count).astype(np.int32)
            self._runs[slot] = known
        return known[1]

    def _permutation(self, stream: int, epoch: int, start: int, count: int) -> np.ndarray:
        """(count,) int64 drawn from (seed, source, stream, epoch, start)."""
        # The key and the upper words of the counter name the draw; the lowest word counts up from 0 within it.
        generator = np.random.Philox(
            key=np.array([self._seed % 2**64, self._source * 2 + stream], dtype=np.uint64),
            counter=np.array([0, start, epoch, 0], dtype=np.uint64),
        )
        return np.argsort(generator.random_raw(count), kind="stable")


def slots_of_rank(where: str, batch_size: int, rank: int, world_size: int) -> range:
    """The slots that `rank` owns. `where` is the config key of the batch size. Raises UserError if uneven."""
    if batch_size % world_size:
        raise UserError(
            f"{where} = {batch_size} cannot be shared evenly by {world_size} processes; "
            f"make it a multiple of {world_size} or change the number of processes"
        )
    each = batch_size // world_size
    return range(rank * each, (rank + 1) * each)


def split_slots(slots: range, part: int, parts: int) -> range:
    """Part `part` of `parts` contiguous, nearly equal parts of `slots`."""
    bounds = [slots.start + len(slots) * i // parts for i in (part, part + 1)]
    return range(*bounds)
