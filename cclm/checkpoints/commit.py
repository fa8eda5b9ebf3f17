"""How one checkpoint becomes durable in one place: first its files, then the manifest. All functions take any store.

Some are generators that yield the name of the phase that has just ended. So tests can kill a save between any two.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import google_crc32c

from cclm import storage
from cclm.checkpoints import manifest as manifests
from cclm.checkpoints.manifest import MANIFEST, FileEntry, Manifest, NoManifestError, TornCheckpointError

_BLOCK = 4 * 2**20


class OtherRunError(Exception):
    """The place holds a checkpoint of the same step by another run; the message says what to do."""


@dataclass(frozen=True)
class Staged:
    """A checkpoint's files on a local disk, complete but for the manifest; checksums may still be under way."""

    folder: Path
    names: Mapping[str, str]
    """Role -> file in `folder`."""
    size: int
    """Bytes of these files together."""
    entries: Mapping[str, Future[FileEntry]]
    """Role -> size and checksums of that file."""
    head: Manifest
    """The manifest, without files."""

    def manifest(self) -> Manifest:
        """The whole manifest; waits for the checksums. Raises FileNotFoundError if somebody removed the files."""
        return replace(self.head, files={role: entry.result() for role, entry in self.entries.items()})


def file_entry(path: Path) -> FileEntry:
    """Size and checksums of a local file, as read back from it."""
    crc = google_crc32c.Checksum()  # type: ignore[no-untyped-call]  # the package has no annotations
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc.update(block)  # type: ignore[no-untyped-call]  # as above
            sha.update(block)
            size += len(block)
    digits = crc.hexdigest().decode()  # type: ignore[no-untyped-call]  # as above
    return FileEntry(path.name, size, digits, sha.hexdigest())


def whole_manifest(folder: str) -> Manifest:
    """The manifest of a checkpoint folder whose files are there in their sizes; contents are not read.

    Raises:
        TornCheckpointError: there is no such checkpoint.
    """
    try:
        manifest = manifests.from_bytes(storage.read_bytes(storage.join(folder, MANIFEST)))
        sizes = {entry.name: entry.size for entry in storage.list_entries(folder)}
    except (FileNotFoundError, NotADirectoryError):
        raise NoManifestError(f"{MANIFEST} is missing") from None
    for file in manifest.files.values():
        if file.name not in sizes:
            raise TornCheckpointError(f"{file.name} is missing")
        if sizes[file.name] != file.size:
            raise TornCheckpointError(f"{file.name} has {sizes[file.name]} bytes, its manifest says {file.size}")
    return manifest


def check_contents(folder: str | Path, manifest: Manifest) -> None:
    """Compare every byte of a local checkpoint with the checksums of its manifest.

    Raises:
        TornCheckpointError: names the file that differs.
    """
    for file in manifest.files.values():
        try:
            found = file_entry(Path(folder) / file.name)
        except FileNotFoundError:
            raise TornCheckpointError(f"{file.name} is missing") from None
        if found.size != file.size:
            raise TornCheckpointError(f"{file.name} has {found.size} bytes, its manifest says {file.size}")
        if (found.crc32c, found.sha256) != (file.crc32c, file.sha256):
            raise TornCheckpointError(f"{file.name} differs from the checksums in its manifest")


def verify(folder: str, manifest: Manifest) -> None:
    """Read a checkpoint of any store, and compare every byte with the checksums of its manifest.

    Raises:
        TornCheckpointError: names the file that differs.
    """
    if storage.is_local(folder):
        check_contents(storage.local_path(folder), manifest)
        return
    with tempfile.TemporaryDirectory(prefix="cclm-verify-") as local:
        for file in manifest.files.values():
            storage.download(storage.join(folder, file.name), str(Path(local) / file.name))
        check_contents(local, manifest)


def commit(staged: Staged, folder: str, damaged: frozenset[str]) -> Iterator[str]:
    """Bring staged files and their manifest to `folder`, a URL or the path where they already are.

    Args:
        damaged: attempts whose checkpoints were found damaged when the run started: they may be replaced.

    Raises:
        OtherRunError: `folder` holds a checkpoint of another run.
        FileNotFoundError: somebody removed the files meanwhile.
        OSError: the store does not take it.
    """
    if Path(storage.local_path(folder)) != staged.folder:
        for role, name in staged.names.items():
            storage.put_file(str(staged.folder / name), storage.join(folder, name))
            yield f"{role} uploaded"
    manifest = staged.manifest()
    if _publish(folder, manifest, damaged):
        yield "committed"
        with contextlib.suppress(OSError):
            clear_leftovers(folder, manifest.run, {file.name for file in manifest.files.values()})
        yield "cleared"
    else:
        remove_files(folder, staged.names.values())
        yield "committed by another attempt"


def _publish(folder: str, manifest: Manifest, damaged: frozenset[str]) -> bool:
    """Write the manifest; False when another attempt of this run has made this checkpoint already."""
    url, data = storage.join(folder, MANIFEST), manifests.to_bytes(manifest)
    sizes = {entry.name: entry.size for entry in storage.list_entries(folder)}
    for file in manifest.files.values():
        if sizes.get(file.name) != file.size:
            raise FileNotFoundError(f"{file.name} has vanished from {folder} or is cut; does another run write there?")
    for is_last_try in (False, True):
        with contextlib.suppress(FileExistsError):
            storage.write_new(url, data)
        there = _other_manifest(folder)
        # Read back whatever the answer was: a store may have taken the file and lost its answer, or may not know
        # exclusive writes.
        if there is not None and there.attempt == manifest.attempt:
            return True
        if there is not None and there.attempt not in damaged:
            if there.run != manifest.run:
                raise OtherRunError(
                    f"{folder} holds a checkpoint of another run ({there.run}, this one is {manifest.run}): two runs "
                    "write to one place; give each its own output_dir and output_hdfs"
                )
            return False
        if not is_last_try:
            with contextlib.suppress(FileNotFoundError):
                storage.delete(url)
    raise OSError(f"{url} could not be written: another writer keeps replacing it")


def _other_manifest(folder: str) -> Manifest | None:
    try:
        return whole_manifest(folder)
    except TornCheckpointError:
        return None


def clear_leftovers(folder: str, run: str, but: Collection[str] = ()) -> None:
    """Remove the files that attempts of a run left when they died: no manifest names them.

    Args:
        but: names of files that stay.
    """
    for entry in storage.list_entries(folder):
        if manifests.run_of_file(entry.name) == run and entry.name not in but:
            storage.delete(storage.join(folder, entry.name))


def is_committed(folder: str, run: str) -> bool:
    """Whether a checkpoint of `run` is whole there, whichever attempt made it."""
    there = _other_manifest(folder)
    return there is not None and there.run == run


def remove_files(folder: str, names: Iterable[str]) -> None:
    """Remove files of a checkpoint, as far as the store lets us."""
    for name in names:
        with contextlib.suppress(OSError):
            storage.delete(storage.join(folder, name))
