"""Do the folders of results take files?"""

from __future__ import annotations

import errno
import secrets
import tempfile
from pathlib import Path

from cclm import storage
from cclm.errors import NodeError, UserError

_OF_THE_MACHINE = (errno.ENOSPC, errno.EIO, errno.ESTALE, errno.ENODEV, errno.EUCLEAN, errno.ENXIO, errno.ENOTCONN)
"""Errors of a disk or a mount of this machine."""


def check_output(place: str, name: str) -> str:
    """Write, and delete, a small file in a folder of results: a path or a URL.

    Where a local folder does not exist yet, it is not made: the file is written to the folder that it would be made in.
    So a run that is refused afterwards leaves no trace.

    Args:
        name: what the user calls the folder.

    Raises:
        UserError: it takes no files.
        NodeError: the disk of this machine is full or broken.
        StoreUnavailable: the store does not answer.
    """
    if not storage.is_local(place):
        _check_store(place, name)
        return ""
    folder = Path(storage.local_path(place))
    try:
        _refuse_file(folder, name)
        existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".probe-") as file:
            file.write(b"probe")
            file.flush()
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise NodeError(
                f"{name} {folder} cannot be written to on this machine ({error.strerror}); see to its disk, or use "
                "another machine"
            ) from None
        raise _refused(folder, name, error) from None
    return ""


def check_place(place: str, name: str) -> None:
    """Create a local folder of results, and write a small file to it, or to a folder of a store. The file is deleted.

    Args:
        place: a path or a URL.
        name: what the user calls the folder.

    Raises:
        UserError: it takes no files.
        StoreUnavailable: it does not answer.
    """
    if storage.is_local(place):
        check_writable(Path(storage.local_path(place)), name)
    else:
        _check_store(place, name)


def check_writable(folder: Path, name: str) -> None:
    """Create `folder`, and a file in it that is deleted at once.

    Args:
        name: what the user calls the folder.

    Raises:
        UserError: it is a file, lies under one, or takes no files.
    """
    try:
        _refuse_file(folder, name)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
            pass
    except OSError as error:
        raise _refused(folder, name, error) from None


def _refuse_file(folder: Path, name: str) -> None:
    """Raise UserError if `folder` is a file or lies under one."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"{name} {folder} cannot be a folder, since {path} is a file; choose another {name}")


def _refused(folder: Path, name: str, error: OSError) -> UserError:
    return UserError(
        f"{name} {folder} cannot be written to ({error.strerror}); make it writable or choose another {name}"
    )


def _check_store(place: str, name: str) -> None:
    """Write, and delete, a small file in a folder of a store. Raises UserError and StoreUnavailable."""
    probe = storage.join(place, f".probe-{secrets.token_hex(4)}")
    try:
        storage.write_new(probe, b"probe")
        storage.delete(probe)
    except (storage.StoreUnavailable, UserError):
        raise
    except OSError as error:
        raise UserError(
            f"{name} {place} cannot be written to ({error}); check its name and your rights, or choose another {name}"
        ) from None
