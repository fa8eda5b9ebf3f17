"""The manifest of a checkpoint: `manifest.json`, written last, exclusively, with digests of every file and of itself.

    step-00001234/
        model-<attempt>.safetensors       parameters by name, as the model names them
        optimizer-<attempt>.safetensors   "<parameter name>/<slot>", e.g. "model.match_head.0.weight/exp_avg"
        state-<attempt>.json              config, versions: what a reader needs to know before loading
        manifest.json                     names, sizes and checksums of the others

A folder without a manifest, or with one that differs from its own digest, is no checkpoint. The attempt (one process's
saves of one run) is in the file names, so that files of a writer that died never mix with those of the next one. An
attempt is "<run>-<random>", so that the name of a file tells which run it belongs to. Nothing here depends on clocks.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

MANIFEST = "manifest.json"
FORMAT = 2
MODEL, OPTIMIZER, STATE = "model", "optimizer", "state"
"""Roles of files."""

_FOLDER = re.compile(r"step-(\d{8,})")
_FILE = re.compile(r"(?P<role>[a-z]+)-(?P<run>[0-9a-f]{8})-[0-9a-f]{8}\.(safetensors|json)")


class TornCheckpointError(Exception):
    """A folder that is not a whole checkpoint; the message says what is wrong with it."""


class NoManifestError(TornCheckpointError):
    """A folder without a manifest: a save that never ended, or no checkpoint of ours."""


class DamagedCheckpointError(TornCheckpointError):
    """A checkpoint whose files have the right sizes and wrong contents.

    Args:
        message: as in TornCheckpointError.
        attempt: the attempt that made it.
    """

    def __init__(self, message: str, attempt: str) -> None:
        super().__init__(message)
        self.attempt = attempt


@dataclass(frozen=True)
class FileEntry:
    """One file of a checkpoint."""

    name: str
    size: int
    """Bytes."""
    crc32c: str
    """8 hex digits."""
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Contents of `manifest.json`."""

    run: str
    attempt: str
    step: int
    """Outer steps done."""
    world_size: int
    """Processes of the run that wrote it; any number can go on from it."""
    files: Mapping[str, FileEntry]
    """By role."""
    score: float | None = None
    """Of a best checkpoint: the score by which it was the best."""


def new_run() -> str:
    """A name for a run that starts anew: 8 hex digits."""
    return secrets.token_hex(4)


def is_run(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and re.fullmatch(r"[0-9a-f]{8}", name) is not None


def new_attempt(run: str) -> str:
    """A name for one process's saves of a run."""
    return f"{run}-{secrets.token_hex(4)}"


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def step_of_folder(name: str) -> int | None:
    """The step of a folder named like a checkpoint; None for other names."""
    match = _FOLDER.fullmatch(name)
    return int(match[1]) if match else None


def file_name(role: str, attempt: str) -> str:
    return f"{role}-{attempt}.{'json' if role == STATE else 'safetensors'}"


def run_of_file(name: str) -> str | None:
    """The run that a checkpoint's file belongs to; None for names that are not ours."""
    match = _FILE.fullmatch(name)
    return match["run"] if match else None


def to_bytes(manifest: Manifest) -> bytes:
    """The only valid encoding of a manifest."""
    content = {"format": FORMAT, **asdict(manifest)}
    return _encoded({**content, "digest": _digest(content)})


def from_bytes(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        TornCheckpointError: the data is cut, changed (if only by a bit), or of another format.
    """
    try:
        content = json.loads(data)
        version = content["format"]
    except (ValueError, KeyError, TypeError):
        raise TornCheckpointError(f"{MANIFEST} is unreadable") from None
    if version != FORMAT:
        raise TornCheckpointError(
            f"its format is {version!r} and this version of cclm reads {FORMAT}; the version that wrote it can turn it "
            "into a .th file (cclm convert), which model.weights takes"
        )
    try:
        digest = content.pop("digest")
        if digest != _digest(content) or data != _encoded({**content, "digest": digest}):
            raise TornCheckpointError(f"{MANIFEST} differs from its own digest")
        del content["format"]
        files = {role: FileEntry(**entry) for role, entry in content.pop("files").items()}
        return Manifest(**content, files=files)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TornCheckpointError(f"{MANIFEST} is unreadable") from None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_encoded(content)).hexdigest()


def _encoded(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
