"""Files of this machine, without fsspec, which would make the read of one record ten times as slow."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import BinaryIO

from cclm.storage.interface import Entry, FileInfo


def find(path: str) -> FileInfo:
    """Look at a file or folder. Raises FileNotFoundError."""
    try:
        status = os.stat(path)
    except NotADirectoryError:
        raise FileNotFoundError(f"{path} does not exist") from None
    return FileInfo(status.st_size, str(status.st_mtime_ns), os.path.isdir(path), status.st_mtime)


def entries(path: str) -> list[Entry]:
    """What is in a folder. Raises FileNotFoundError."""
    found: list[Entry] = []
    with os.scandir(path) as listing:
        for entry in listing:
            folder = entry.is_dir()
            try:
                found.append(Entry(entry.name, 0 if folder else entry.stat().st_size, folder))
            except FileNotFoundError:  # deleted meanwhile, or a link to nothing
                continue
    return found


def read(path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes [start, end) of each range; fewer where the file ends."""
    with open(path, "rb") as file:
        return [_at(file, start, end) for start, end in ranges]


def _at(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def write(path: str, data: bytes, new: bool) -> None:
    """Publish `data` whole. With `new`, a file that exists is not replaced: FileExistsError."""
    publish(path, lambda file: file.write(data), new)


def copy(source: str, path: str) -> None:
    """Publish a copy of a file, over what is there."""

    def fill(file: BinaryIO) -> None:
        with open(source, "rb") as original:
            shutil.copyfileobj(original, file, 4 << 20)

    publish(path, fill, new=False)


def publish(path: str, fill: Callable[[BinaryIO], object], new: bool) -> None:
    """Write a file beside its final name, sync it to disk, and put it in place atomically. A failure leaves nothing.

    Args:
        fill: writes the contents.
        new: refuse to replace a file that exists: FileExistsError.
    """
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(path)}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        if new:
            _link(temporary, path)
        else:
            os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # the system call names no file
            error.filename = path
        raise
    _sync_folder(folder)


def _link(temporary: str, path: str) -> None:
    """Give a file its final name. Raises FileExistsError if there is one of that name."""
    try:
        os.link(temporary, path)
        os.unlink(temporary)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        # There are no hard links here (FAT, some network mounts). So an empty file takes the name first, and readers
        # may see that for a moment.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        os.replace(temporary, path)


def _sync_folder(folder: str) -> None:
    """Make a rename durable, if the file system can sync folders."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:  # some network mounts refuse
        pass
    finally:
        os.close(handle)


def remove(path: str) -> None:
    """Remove a file; an absent one is fine."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        pass


def remove_folder(path: str) -> None:
    """Remove a folder with all that is in it; an absent one is fine."""
    if os.path.islink(path):
        os.unlink(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)


def _umask() -> int:
    """The process's file mode mask; there is no way to read it without setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
