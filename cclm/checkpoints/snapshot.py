"""Tensors copied to memory that another process can read. This copy is all that saving costs the training loop.

The memory is a file without a name: memfd on Linux, an unlinked temporary file elsewhere. So it needs no /dev/shm of
any size, and vanishes with the last process that holds it. It is kept from save to save: its pages are allocated once.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping

import torch
from torch import Tensor

from cclm.checkpoints.messages import Layout, TensorPlace

_ALIGNMENT = 64
"""Bytes; enough for every dtype."""


class Snapshot:
    """The memory, which holds the copy of one set of tensors at a time."""

    def __init__(self) -> None:
        self.handle = _anonymous_file()
        """File descriptor, for the process that reads."""
        self.layout: Layout = {}
        self._memory: Tensor | None = None
        """(bytes,) uint8: all of it."""
        self._is_pinned = False
        self._views: list[Tensor] = []

    def take(self, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Copy the tensors of each file (role -> name -> tensor on any device); returns when the copy is whole."""
        layout = _layout_of(files)
        if layout != self.layout:
            self._arrange(layout)
        tensors = [tensor for members in files.values() for tensor in members.values()]
        with torch.no_grad():
            for view, tensor in zip(self._views, tensors, strict=True):
                view.copy_(tensor, non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors):
            torch.cuda.synchronize()

    def _arrange(self, layout: Layout) -> None:
        """Make the memory large enough for a layout, and views of it as tensors."""
        places = [place for members in layout.values() for place in members.values()]
        size = max((place.start + place.size for place in places), default=0) or 1
        self._views = []
        if self._memory is None or size > self._memory.numel():
            self._release()
            os.ftruncate(self.handle, size)
            self._memory = torch.frombuffer(mmap.mmap(self.handle, size), dtype=torch.uint8)
            self._pin(self._memory)
        memory = self._memory
        for place in places:
            raw = memory[place.start : place.start + place.size]
            self._views.append(raw.view(getattr(torch, place.dtype)).view(place.shape))
        self.layout = layout

    def _pin(self, memory: Tensor) -> None:
        """Lock the pages: the GPU copies several times faster to locked ones. If CUDA refuses, copies are slower."""
        if torch.cuda.is_available():
            cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch gives it no types
            self._is_pinned = int(cudart.cudaHostRegister(memory.data_ptr(), memory.numel(), 0)) == 0

    def _release(self) -> None:
        if self._is_pinned and self._memory is not None:
            cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch gives it no types
            cudart.cudaHostUnregister(self._memory.data_ptr())
            self._is_pinned = False
        self._memory = None

    def close(self) -> None:
        """Give the memory back, as soon as no other process holds it either."""
        self._views, self.layout = [], {}
        self._release()
        os.close(self.handle)


def _layout_of(files: Mapping[str, Mapping[str, Tensor]]) -> Layout:
    layout: Layout = {}
    end = 0
    for role, members in files.items():
        layout[role] = {}
        for name, tensor in members.items():
            size = tensor.numel() * tensor.element_size()
            place = TensorPlace(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), end, size)
            layout[role][name] = place
            end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return layout


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("cclm-snapshot")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
