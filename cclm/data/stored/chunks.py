"""The chunks of a source, and their order in an epoch, without tables of all of them.

A billion records are 24 million chunks. Tables of them, in every loader process, would take 1.2 GB. Here the cut of the
files is arithmetic. The order of an epoch, which is that of random words, is computed in *pieces*: all words are drawn,
but only those of the wanted pieces are kept and sorted. The order is the same as if all were sorted at once.

Dimension letters: F files, C chunks, B pieces.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_PIECE = 4096
"""Chunks of a piece, about."""
_BLOCK = 1 << 17
"""Words that are drawn at once."""

Words = Callable[[], np.random.Philox]
"""A fresh generator of the words of an epoch, one a chunk."""


class ChunkCut:
    """How files are cut into chunks: chunk c is the c-th of all files, in order.

    Args:
        records: number of records of each file.
        sizes: records of a chunk of each file. The last chunk of a file may have less.
    """

    def __init__(self, records: Sequence[int], sizes: Sequence[int]) -> None:
        self._records, self._sizes = np.array(records, dtype=np.int64), np.array(sizes, dtype=np.int64)
        chunks = -(-self._records // self._sizes)
        self._starts = np.concatenate([[0], np.cumsum(chunks)]).astype(np.int64)  # (F + 1,)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def files(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """The file of each chunk, int64."""
        return np.searchsorted(self._starts, chunks, side="right") - 1

    def counts(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of records of each chunk, int64."""
        files = self.files(chunks)
        first = (chunks - self._starts[files]) * self._sizes[files]
        return np.minimum(self._sizes[files], self._records[files] - first)

    def first_record(self, chunk: int, file: int) -> int:
        """Where a chunk starts in its file."""
        return int((chunk - self._starts[file]) * self._sizes[file])

    def checksum(self) -> int:
        """CRC-32 of the files of all chunks, then of their numbers of records, as little-endian int64."""
        crc = 0
        for column in (self.files, self.counts):
            for chunks in _blocks(len(self)):
                crc = zlib.crc32(column(chunks).astype("<i8").tobytes(), crc)
        return crc


class ChunkPlace(NamedTuple):
    """A chunk, and its places in the epoch: [begin, end)."""

    chunk: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Neighbouring chunks of an epoch."""

    chunks: NDArray[np.int64]
    """In the order of the epoch."""
    ends: NDArray[np.int64]
    """The place after the last one of each of these chunks."""


class EpochChunks:
    """The chunks of an epoch in the order of their words; equal words keep the order of the files.

    Args:
        words: as many words as chunks are taken from each of its generators.
    """

    def __init__(self, cut: ChunkCut, words: Words) -> None:
        self._cut, self._words = cut, words
        bits = max(0, (max(1, len(cut)) // _PIECE).bit_length())
        self._shift = np.uint64(64 - bits)
        self._is_whole = bits == 0  # a shift by 64 is not defined
        records = np.zeros(1 << bits, dtype=np.int64)
        for chunks, drawn in self._drawn():
            # Sums of 64-bit floats, of far less than 2^53 records, are exact.
            records += np.bincount(self._pieces_of(drawn), cut.counts(chunks), len(records)).astype(np.int64)
        self._ends = np.cumsum(records)  # (B,): the place after the last one of each piece
        self._known: OrderedDict[int, _Piece] = OrderedDict()

    def find(self, place: int) -> ChunkPlace:
        """The chunk at a place of the epoch."""
        number = int(np.searchsorted(self._ends, place, side="right"))
        if number not in self._known:
            self._compute({number})
        self._known.move_to_end(number)
        piece = self._known[number]
        position = int(np.searchsorted(piece.ends, place, side="right"))
        begin = int(piece.ends[position - 1]) if position else int(self._ends[number - 1]) if number else 0
        return ChunkPlace(int(piece.chunks[position]), begin, int(piece.ends[position]))

    def prepare(self, places: Iterable[int], keep: int) -> None:
        """Compute the pieces of some places together, which takes as long as computing one of them.

        Args:
            keep: number of pieces that stay in memory: those used last.
        """
        numbers = set(np.searchsorted(self._ends, np.fromiter(places, dtype=np.int64), side="right").tolist())
        if missing := numbers - self._known.keys():
            self._compute(missing)
            while len(self._known) > max(keep, len(numbers)):
                self._known.popitem(last=False)

    def _compute(self, numbers: set[int]) -> None:
        wanted = np.zeros(len(self._ends), dtype=bool)
        wanted[list(numbers)] = True
        kept = []
        for chunks, drawn in self._drawn():
            inside = wanted[self._pieces_of(drawn)]
            kept.append((chunks[inside], drawn[inside]))
        chunks, drawn = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        order = np.argsort(drawn, kind="stable")
        chunks, pieces = chunks[order], self._pieces_of(drawn[order])
        counts = self._cut.counts(chunks)
        for number in numbers:
            first, last = np.searchsorted(pieces, [number, number + 1])
            begin = int(self._ends[number - 1]) if number else 0
            self._known[number] = _Piece(chunks[first:last].copy(), begin + np.cumsum(counts[first:last]))

    def _drawn(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
        """All chunks with their words, block by block."""
        generator = self._words()
        for chunks in _blocks(len(self._cut)):
            yield chunks, generator.random_raw(len(chunks))

    def _pieces_of(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The piece of each word: its first bits."""
        if self._is_whole:
            return np.zeros(len(words), dtype=np.int64)
        return (words >> self._shift).astype(np.int64)


def _blocks(count: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, _BLOCK):
        yield np.arange(start, min(start + _BLOCK, count), dtype=np.int64)
