"""Chunks that are computed in pieces are those that tables of all of them would give."""

from functools import partial

import numpy as np
import pytest

from cclm.data.stored import chunks
from cclm.data.stored.chunks import ChunkCut, EpochChunks
from cclm.data.stored.order import SampleOrder

RECORDS, SIZES = [0, 700, 1, 0, 123, 2000], [1, 7, 3, 2, 5, 4]


def tables() -> list[tuple[int, int, int]]:
    """File, first record and number of records of each chunk, one after the other."""
    return [
        (file, first, min(size, count - first))
        for file, (count, size) in enumerate(zip(RECORDS, SIZES, strict=True))
        for first in range(0, count, size)
    ]


def test_the_cut_of_files_is_that_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_BLOCK", 100)
    cut, table = ChunkCut(RECORDS, SIZES), tables()
    every = np.arange(len(table))
    assert len(cut) == len(table)
    assert cut.files(every).tolist() == [file for file, _, _ in table]
    assert cut.counts(every).tolist() == [count for _, _, count in table]
    assert [cut.first_record(chunk, file) for chunk, (file, _, _) in enumerate(table)] == [row[1] for row in table]
    columns = np.array([[row[0] for row in table], [row[2] for row in table]], dtype="<i8")
    assert cut.checksum() == chunks.zlib.crc32(columns.tobytes())


@pytest.mark.parametrize("piece", [1, 30, 4096])
def test_the_order_in_pieces_is_that_of_all_words_sorted(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_BLOCK", 64)
    monkeypatch.setattr(chunks, "_PIECE", piece)
    words = partial(np.random.Philox, key=np.array([3, 4], dtype=np.uint64))
    table = tables()
    order = np.argsort(words().random_raw(len(table)), kind="stable")
    ends = np.cumsum([table[chunk][2] for chunk in order])
    epoch = EpochChunks(ChunkCut(RECORDS, SIZES), words)
    for place in np.random.default_rng(0).integers(0, sum(RECORDS), 300).tolist():
        position = int(np.searchsorted(ends, place, side="right"))
        begin = int(ends[position - 1]) if position else 0
        assert epoch.find(place) == (int(order[position]), begin, int(ends[position]))


def test_pieces_that_are_dropped_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_PIECE", 8)
    make = partial(SampleOrder, [3000, 500], [3000 * 60_000, 500 * 60_000], 16, 1, 0)
    whole, jumping = make(), make()
    batches = list(range(0, 400, 7))
    expected = {batch: whole.records_of(batch, range(16)) for batch in batches}
    monkeypatch.setattr(jumping, "_most", 1)
    for batch in reversed(batches):
        assert jumping.records_of(batch, range(16)) == expected[batch]


def test_an_order_travels_without_what_it_has_computed() -> None:
    order = SampleOrder([100_000], [100_000 * 60_000], 8, 1, 0)
    order.records_of(5, range(8))
    state = order.__getstate__()
    assert not state["_epochs"] and not state["_runs"]
