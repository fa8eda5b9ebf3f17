"""What `cclm describe` prints about a checkpoint or a run's folder."""

from __future__ import annotations

from cclm import storage
from cclm.checkpoints.commit import whole_manifest
from cclm.checkpoints.find import EVERYTHING, Checkpoint, open_checkpoint
from cclm.checkpoints.manifest import (
    FORMAT,
    STATE,
    NoManifestError,
    TornCheckpointError,
    folder_name,
    step_of_folder,
)
from cclm.checkpoints.retention import checkpoint_steps
from cclm.errors import UserError
from cclm.training.run_files import BEST


def describe_folder(url: str, *, verify: bool) -> int:
    """Print one checkpoint, or a line for each checkpoint of a run; returns 1 if any is torn, else 0.

    Args:
        url: folder of a checkpoint or of a run.
        verify: whether to read every byte and compare it with the checksums.

    Raises:
        UserError: `url` is neither.
    """
    url = url.rstrip("/")
    folders = [storage.join(url, folder_name(step)) for step in reversed(checkpoint_steps(url))]
    best = storage.join(url, BEST)
    folders += [storage.join(best, folder_name(step)) for step in checkpoint_steps(best)]
    if folders:
        return max(_print_line(folder, verify) for folder in folders)
    if not storage.is_folder(url):
        raise UserError(f"{url} is no folder; name a config file, a checkpoint's folder, or a run's folder")
    try:
        # The state is small, and it is printed, so it is always compared with its checksum.
        checkpoint = open_checkpoint(url, EVERYTHING if verify else (STATE,))
    except TornCheckpointError as problem:
        if isinstance(problem, NoManifestError) and step_of_folder(storage.name(url)) is None:
            raise UserError(
                f"there is no checkpoint in {url} ({problem}); name a checkpoint's folder, or that of a run that has "
                "saved one"
            ) from None
        print(f"{url} is not a whole checkpoint: {problem}")
        return 1
    for line in _details(checkpoint):
        print(line)
    if verify:
        print("verified: every byte agrees with the checksums")
    else:
        print("whole: the manifest is intact and every file has its size (--verify reads them)")
    return 0


def _print_line(folder: str, verify: bool) -> int:
    """Print a line about one checkpoint of a run; returns 1 if it is torn, else 0."""
    try:
        manifest = open_checkpoint(folder).manifest if verify else whole_manifest(folder)
    except TornCheckpointError as problem:
        print(f"{folder}: torn, {problem}")
        return 1
    size = sum(file.size for file in manifest.files.values()) / 1e6
    score = "" if manifest.score is None else f", score {manifest.score:.4g}"
    print(f"{folder}: {'verified' if verify else 'whole'}, {size:,.1f} MB, run {manifest.run}{score}")
    return 0


def _details(checkpoint: Checkpoint) -> list[str]:
    manifest, versions = checkpoint.manifest, checkpoint.state.get("versions", {})
    lines = {
        "checkpoint": checkpoint.source,
        "format": FORMAT,
        "step": manifest.step,
        "run": manifest.run,
        "attempt": manifest.attempt,
        "processes": manifest.world_size,
        "score": manifest.score,
        "written by": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    shown = [f"{name:<11}{value}" for name, value in lines.items() if value not in (None, "")]
    for role, file in manifest.files.items():
        shown.append(f"{role:<11}{file.name}  {file.size:,} bytes  crc32c {file.crc32c}")
        shown.append(f"{'':<11}sha256 {file.sha256}")
    return shown
