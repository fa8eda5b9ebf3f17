"""A batch of sequences of different lengths, as one typed object: padded (`Sequences`) or not (`PackedSequences`).

Dimension letters: S sequences, L positions of the longest one, H width, M selected positions (of `PackedSequences`:
all positions).

Only attention needs the padded layout (`padded`, `padding_mask`). Everything else works position by position, or
through methods that both classes have. So training and evaluation run the same layers on `PackedSequences`, without
padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """Token ids, or the states computed from them, of S sequences.

    The sequences are padded on the right.
    """

    data: Tensor
    """(S, L) int64 for token ids, (S, L, H) float for states."""
    lengths: Tensor | None
    """(S,) int64, on the device of `data`: how many positions of each sequence exist. None if all exist in every
    sequence, as in images; attention then needs no mask."""
    visible: Tensor | None = None
    """(S, L) bool: the positions that others may attend to, where these are not simply the first `lengths`: a text
    about an image region sees some of the patches only. None otherwise."""

    def __len__(self) -> int:
        return self.data.shape[0]

    @property
    def device(self) -> torch.device:
        return self.data.device

    def with_data(self, data: Tensor) -> Sequences:
        """The same sequences with other contents: `data` (S, L, ...)."""
        return replace(self, data=data)

    def padded(self) -> Tensor:
        """(S, L, ...): the contents with padding on the right."""
        return self.data

    def padding_mask(self) -> Tensor | None:
        """(S, L) bool: True where a position may be attended to; None where that is everywhere."""
        if self.visible is not None or self.lengths is None:
            return self.visible
        return torch.arange(self.data.shape[1], device=self.device) < self.lengths[:, None]

    def from_padded(self, data: Tensor) -> Tensor:
        """Bring padded contents (S, L, ...) to the layout of `data`, which here is the same."""
        return data

    def positions(self) -> Tensor:
        """Index of each position within its sequence, int64, broadcastable to the leading shape of `data`."""
        return torch.arange(self.data.shape[1], device=self.device)[None, :]  # (1, L)

    def first(self) -> Tensor:
        """(S, ...): the contents at position 0, which is `<s>` of a text and [CLS] of an image."""
        return self.data[:, 0]

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(M, ...): the contents at M positions. `rows` (M,) int64 are sequences, `columns` (M,) positions in them."""
        return self.data[rows, columns]

    def fingerprints(self) -> Tensor:
        """(S,) int64: numbers that are equal for sequences of equal token ids, whatever their padding.

        Two different sequences get equal numbers with a probability below 1e-13. The numbers are the same on all
        processes and devices, and the CPU does not wait for a GPU.
        """
        positions = torch.arange(1, self.data.shape[1] + 1, device=self.device)
        factors = _mix(positions) | 1  # (L,), an odd number for each position
        terms = (self.data + 1) * factors  # (S, L), modulo 2^64
        mask = self.padding_mask()
        return (terms if mask is None else terms.masked_fill(~mask, 0)).sum(dim=1)

    def select(self, rows: Tensor) -> Sequences:
        """The sequences numbered `rows` (K,) int64, in that order; repeats are allowed."""
        lengths = None if self.lengths is None else self.lengths[rows]
        visible = None if self.visible is None else self.visible[rows]
        return Sequences(self.data[rows], lengths, visible)

    def split(self, sizes: Sequence[int]) -> list[Sequences]:
        """Split into consecutive groups of `sizes` sequences. The sizes must add up to S."""
        sizes = list(sizes)
        nothing = [None] * len(sizes)
        lengths = nothing if self.lengths is None else torch.split(self.lengths, sizes)
        visible = nothing if self.visible is None else torch.split(self.visible, sizes)
        return [Sequences(*part) for part in zip(torch.split(self.data, sizes), lengths, visible, strict=True)]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Sequences:
        """The same on `device`."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return Sequences(self.data.to(device, non_blocking=non_blocking), move(self.lengths), move(self.visible))

    @staticmethod
    def full(data: Tensor) -> Sequences:
        """Sequences of which every position exists, as in images: `data` (S, L, ...)."""
        return Sequences(data, None)

    @staticmethod
    def concat(parts: Sequence[Sequences]) -> Sequences:
        """All sequences of all `parts`, in order, padded to the longest."""
        longest = max(part.data.shape[1] for part in parts)
        data = torch.cat([_pad_right(part.data, longest) for part in parts])  # (S, L, ...)
        lengths = torch.cat([part._explicit_lengths() for part in parts])  # (S,)
        if any(part.visible is not None for part in parts):
            shown = [_pad_right(part._explicit_mask(), longest) for part in parts]
            return Sequences(data, lengths, torch.cat(shown))
        if all(part.lengths is None and part.data.shape[1] == longest for part in parts):
            return Sequences(data, None)
        return Sequences(data, lengths)

    @staticmethod
    def from_lists(token_ids: Sequence[Sequence[int]], pad_id: int = 1) -> Sequences:
        """S lists of token ids, padded to the longest with `pad_id`, which is 1 in XLM-R: (S, L) int64."""
        lengths = [len(ids) for ids in token_ids]
        longest = max(lengths)
        # numpy converts all rows at once. A tensor for each row would cost more than all its numbers.
        rows = [[*ids, *[pad_id] * (longest - length)] for ids, length in zip(token_ids, lengths, strict=True)]
        data = torch.from_numpy(np.array(rows, dtype=np.int64))  # (S, L)
        return Sequences(data, torch.tensor(lengths, dtype=torch.int64))

    def _explicit_lengths(self) -> Tensor:
        if self.lengths is not None:
            return self.lengths
        return torch.full((len(self),), self.data.shape[1], dtype=torch.int64, device=self.device)

    def _explicit_mask(self) -> Tensor:
        mask = self.padding_mask()
        return torch.ones(self.data.shape[:2], dtype=torch.bool, device=self.device) if mask is None else mask


@dataclass(frozen=True)
class PackedSequences:
    """S sequences one after the other, without padding: M positions in all. Build with `of`, `pack` or `from_lists`.

    Layers that work position by position compute nothing for padding. Attention does neither on a CPU
    (`cclm.model.packed_attention`); elsewhere it sees the padded layout.
    """

    data: Tensor
    """(M, ...)"""
    lengths: Tensor
    """(S,) int64."""
    starts: Tensor
    """(S,) int64: index into `data` of each sequence's position 0."""
    places: Tensor
    """(M,) int64: index of each position in the padded layout flattened to (S * L, ...). Stored, because to compute it
    is to wait for the GPU."""
    longest: int
    """L"""
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What others derive from the lengths. All contents of the same sequences (`with_data`) share it."""

    @staticmethod
    def of(data: Tensor, lengths: Tensor) -> PackedSequences:
        """`data` (M, ...) as sequences of `lengths` (S,) int64, which add up to M."""
        longest = int(lengths.max())
        starts = lengths.cumsum(0) - lengths
        mask = torch.arange(longest, device=lengths.device) < lengths[:, None]  # (S, L)
        return PackedSequences(data, lengths, starts, mask.flatten().nonzero()[:, 0], longest)

    @staticmethod
    def pack(sequences: Sequences) -> PackedSequences:
        """The same sequences without padding. Where only some positions are visible, the others are left out, too."""
        data = sequences.data
        if sequences.visible is not None:
            places = sequences.visible.flatten().nonzero()[:, 0]
            return PackedSequences.of(data.flatten(0, 1).index_select(0, places), sequences.visible.sum(dim=1))
        packed = PackedSequences.of(data, sequences._explicit_lengths())
        if sequences.lengths is None:
            return packed.with_data(data.flatten(0, 1))
        return packed.with_data(data[:, : packed.longest].flatten(0, 1).index_select(0, packed.places))

    @staticmethod
    def concat(parts: Sequence[PackedSequences]) -> PackedSequences:
        """All sequences of all `parts`, in order."""
        return PackedSequences.of(torch.cat([part.data for part in parts]), torch.cat([part.lengths for part in parts]))

    @staticmethod
    def from_lists(token_ids: Sequence[Sequence[int]]) -> PackedSequences:
        """S lists of token ids: (M,) int64."""
        flat = torch.tensor([token for ids in token_ids for token in ids], dtype=torch.int64)
        return PackedSequences.of(flat, torch.tensor([len(ids) for ids in token_ids], dtype=torch.int64))

    def __len__(self) -> int:
        return self.lengths.shape[0]

    @property
    def device(self) -> torch.device:
        return self.data.device

    def with_data(self, data: Tensor) -> PackedSequences:
        """The same sequences with other contents: `data` (M, ...)."""
        return replace(self, data=data)

    def padded(self) -> Tensor:
        """(S, L, ...): the contents with zeros on the right."""
        result = self.data.new_zeros((len(self) * self.longest, *self.data.shape[1:]))
        result[self.places] = self.data
        return torch.unflatten(result, 0, (len(self), self.longest))

    def padding_mask(self) -> Tensor:
        """(S, L) bool: True where a position exists."""
        return torch.arange(self.longest, device=self.device) < self.lengths[:, None]

    def from_padded(self, data: Tensor) -> Tensor:
        """Take padding away from contents (S, L, ...): (M, ...)."""
        return data.flatten(0, 1)[self.places]

    def positions(self) -> Tensor:
        """(M,) int64: index of each position within its sequence."""
        return self.places % self.longest

    def first(self) -> Tensor:
        """(S, ...): the contents at position 0."""
        return self.data.index_select(0, self.starts)

    def first_positions(self) -> PackedSequences:
        """S sequences of one number: (S,) int64, place in `data` of position 0."""
        return PackedSequences.of(self.starts, torch.ones_like(self.lengths))

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(M', ...): the contents at some positions: `rows` int64 are sequences, `columns` positions in them."""
        return self.data.index_select(0, self.starts[rows] + columns)

    def split(self, sizes: Sequence[int]) -> list[PackedSequences]:
        """Split into consecutive groups of `sizes` sequences. The sizes must add up to S."""
        groups = torch.split(self.lengths, list(sizes))
        positions = [int(group.sum()) for group in groups]
        return [
            PackedSequences.of(data, group)
            for data, group in zip(torch.split(self.data, positions), groups, strict=True)
        ]

    def select(self, rows: Tensor) -> PackedSequences:
        """The sequences numbered `rows` (K,) int64, in that order; repeats are allowed."""
        chosen = PackedSequences.of(self.data, self.lengths[rows])
        of_position = chosen.places // chosen.longest  # (M',): index into `rows` of each position's sequence
        return chosen.with_data(self.data.index_select(0, self.starts[rows][of_position] + chosen.positions()))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedSequences:
        """The same on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return PackedSequences(move(self.data), move(self.lengths), move(self.starts), move(self.places), self.longest)


AnySequences = Sequences | PackedSequences


def _pad_right(data: Tensor, length: int) -> Tensor:
    missing = length - data.shape[1]
    if missing == 0:
        return data
    return torch.cat([data, data.new_zeros((data.shape[0], missing, *data.shape[2:]))], dim=1)


def _mix(numbers: Tensor) -> Tensor:
    """int64 -> int64 of the same shape, whose bits look random: SplitMix64 (doi 10.1145/2660193.2660195)."""
    mixed = numbers * -0x61C8864680B583EB  # 2^64 / golden ratio, modulo 2^64, as a signed number
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ _shift_right(mixed, shift)) * factor
    return mixed ^ _shift_right(mixed, 31)


def _shift_right(numbers: Tensor, bits: int) -> Tensor:
    """Shift int64 as if it had no sign: zeros come in from the left."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)
