"""Making a demo world: sizes, the order of work, and a folder that is either whole or not there."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar

from tqdm import tqdm

from cclm.demo.files import World
from cclm.demo.finetuning import write_finetuning
from cclm.demo.languages import LANGUAGES
from cclm.demo.pretraining import write_held_out, write_pretraining
from cclm.demo.preview import write_preview
from cclm.demo.tokenizer import write_tokenizer
from cclm.errors import UserError

VERSION = 2
_MANIFEST = "demo.json"
TOKENIZER_FOLDER = "data/xlm-roberta-demo"


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much of everything a demo world holds. Numbers are of scenes unless said otherwise."""

    image_side: int = 64
    """Side of every picture, px."""
    image_text: int = 8000
    regions: int = 2000
    mono: int = 1500
    parallel: int = 10000
    """Sentence pairs."""
    held_out_test: int = 500
    held_out_validation: int = 200
    finetune_train: int = 1000
    """Of each task's English training set."""
    finetune_test: int = 200
    """Of each task's validation set, and of each of its test sets."""

    TINY: ClassVar[DemoSize]
    """Seconds to make: for tests."""

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
    `as_published`: also what the published commands look for beside the data (`published.py`).
    `progress`: a bar on stderr; None shows it on a terminal only.
    Raises UserError if `out` holds anything else or cannot be written.
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
    """The folder to draw into, with its parents; what keeps the system from making it is said in one sentence."""
    try:
        half_made.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"the demo world {out} cannot be written ({error.strerror}: {error.filename}); choose another folder"
        ) from None


def _earlier_world(out: Path) -> dict | None:
    """The manifest of the demo world in `out`; None if `out` is missing or empty."""
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
    """Put `made` where `out` is, which is missing, empty or an earlier world."""
    if not out.exists():
        made.rename(out)
        return
    # Where a shell stands in it, it is filled: a new one in its place would leave the shell in a deleted folder.
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
        world = World(root, seed, size.image_side, bar.update)
        texts = write_pretraining(world, size.image_text, size.regions, size.mono, size.parallel)
        test_scenes = write_held_out(world, size.held_out_test, size.held_out_validation)
        world.counts["tokenizer pieces"] = write_tokenizer(root / TOKENIZER_FOLDER, texts)
        write_finetuning(world, size.finetune_train, size.finetune_test)
        write_preview(world, test_scenes)
        if as_published:
            from cclm.demo.published import write_published  # needs pydantic, which the others do not wait for

            write_published(world, texts)
    return dict(world.counts)
