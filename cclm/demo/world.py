"""Making a demo world: its sizes, the order of work, and a folder that is either complete or not there."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from tqdm import tqdm

from cclm.demo.finetuning_files import write_finetuning
from cclm.demo.languages import LANGUAGES
from cclm.demo.pretraining_files import write_held_out, write_pretraining
from cclm.demo.preview import write_preview
from cclm.demo.tokenizer_training import write_tokenizer
from cclm.demo.world_writer import WorldWriter
from cclm.errors import UserError

VERSION = 2
"""Version of what is drawn and written. A folder with another version is drawn anew."""
_MANIFEST = "demo.json"
TOKENIZER_FOLDER = "data/xlm-roberta-demo"


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much of everything a demo world holds."""

    image_side: int = 64
    """Side of every picture, px."""
    image_text: int = 8000
    """Pre-training scenes with captions in several languages."""
    regions: int = 2000
    """Pre-training scenes with boxes."""
    mono: int = 1500
    """Pre-training scenes with captions in one language."""
    parallel: int = 10000
    """Pre-training pairs of sentences."""
    held_out_test: int = 500
    """Scenes of the retrieval test."""
    held_out_validation: int = 200
    """Scenes of the retrieval validation set."""
    finetune_train: int = 1000
    """Scenes of each task's English training set."""
    finetune_test: int = 200
    """Scenes of each task's validation set, and of each of its test sets."""

    TINY: ClassVar[DemoSize]
    """For tests: made in seconds."""

    def __post_init__(self) -> None:
        for each in fields(self):
            least = 32 if each.name == "image_side" else 2
            if getattr(self, each.name) < least:
                raise UserError(f"demo world: {each.name} is {getattr(self, each.name)}; it must be at least {least}")


DemoSize.TINY = DemoSize(
    image_side=32,
    image_text=24,
    regions=8,
    mono=8,
    parallel=24,
    held_out_test=8,
    held_out_validation=4,
    finetune_train=6,
    finetune_test=4,
)


def make_demo_world(
    out: Path,
    *,
    seed: int = 0,
    size: DemoSize = DemoSize(),
    as_published: bool = False,
    progress: bool | None = None,
) -> dict[str, int]:
    """Draw a demo world into the folder `out`; returns the number of records, captions and pictures by kind.

    The same seed and size give the same files, byte for byte. A folder that already holds this very world is left as
    it is; another demo world there is replaced. Everything is written beside `out` and moved in one step at the end.

    Args:
        as_published: also write what the published commands look for beside the data (`as_published.py`).
        progress: show a bar on stderr; None: only if that is a terminal.

    Raises:
        UserError: `out` holds something else, or cannot be written.
    """
    out = Path(out).resolve()
    identity = {"version": VERSION, "seed": seed, "size": asdict(size), "as_published": as_published}
    earlier = _earlier_world(out)
    if earlier is not None and {key: earlier.get(key) for key in identity} == identity:
        print(f"{out} already holds this demo world (seed {seed}); nothing to do", file=sys.stderr)
        return dict(earlier["counts"])
    half_made = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        _create(half_made, out)
        counts = _write(half_made, seed, size, as_published, progress)
        manifest = identity | {"languages": list(LANGUAGES), "counts": counts}
        (half_made / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _replace(out, half_made)
    finally:
        shutil.rmtree(half_made, ignore_errors=True)
    return counts


def _create(half_made: Path, out: Path) -> None:
    """Make the folder to draw into, with its parents. Raises UserError if the system refuses."""
    try:
        half_made.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"the demo world {out} cannot be written ({error.strerror}: {error.filename}); choose another folder"
        ) from None


def _earlier_world(out: Path) -> dict[str, Any] | None:
    """The manifest of the demo world in `out`; None if `out` is missing or empty.

    Raises:
        UserError: `out` is no folder, or holds something else.
    """
    if not out.exists() and not out.is_symlink():
        return None
    if not out.is_dir():
        raise UserError(f"{out} is not a folder; name a new or empty folder for the demo world")
    if not any(out.iterdir()):
        return None
    try:
        manifest = json.loads((out / _MANIFEST).read_text(encoding="utf-8"))
        if isinstance(manifest, dict) and isinstance(manifest.get("counts"), dict) and "seed" in manifest:
            return manifest
    except (OSError, ValueError):
        pass
    raise UserError(f"{out} is not empty and no demo world; name a new or empty folder, nothing was written")


def _replace(out: Path, made: Path) -> None:
    """Put `made` in the place of `out`, which is missing, empty or an earlier world."""
    if not out.exists():
        made.rename(out)
        return
    # An empty folder that is the working directory is filled. If it were replaced, the shell that called us would be
    # left in a deleted folder.
    if out.samefile(Path.cwd()) and not any(out.iterdir()):
        for each in sorted(made.iterdir(), key=lambda path: path.name == _MANIFEST):
            each.rename(out / each.name)
        return
    old = made.with_suffix(".old")
    out.rename(old)
    try:
        made.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _write(root: Path, seed: int, size: DemoSize, as_published: bool, progress: bool | None) -> dict[str, int]:
    with tqdm(desc="drawing", unit=" pictures", disable=None if progress is None else not progress) as bar:
        world = WorldWriter(root, seed, size.image_side, bar.update)
        texts = write_pretraining(world, size.image_text, size.regions, size.mono, size.parallel)
        test_scenes = write_held_out(world, size.held_out_test, size.held_out_validation)
        world.counts["tokenizer pieces"] = write_tokenizer(root / TOKENIZER_FOLDER, texts)
        write_finetuning(world, size.finetune_train, size.finetune_test)
        write_preview(world, test_scenes)
        if as_published:
            # Here, since the import needs pydantic, which takes long and which nothing else here needs.
            from cclm.demo.as_published import write_published

            write_published(world, texts)
    return dict(world.counts)
