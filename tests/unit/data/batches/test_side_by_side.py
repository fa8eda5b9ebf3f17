"""Several sources in one run, as the plan of steps draws on them: each keeps its order, whoever reads it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from record_files import image_text, pair, region, write_lines
from torch import Tensor

from cclm.config.pretrain import PretrainConfig
from cclm.data.batches.batch import ImageTextBatch, ParallelTextBatch, RegionTextBatch
from cclm.data.batches.loader import open_source
from cclm.data.stored.audit import AuditLine, Tally, add_tally
from cclm.training.plan import Plan

SLOTS = 16
RECORDS = {"images": 41, "regions": 37, "texts": 50}  # none a multiple of SLOTS
STEPS = 12  # beyond the second epoch of the texts and the first one of the others
MAKE = {"images": image_text, "regions": region, "texts": pair}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two uneven files of each source."""
    folder = tmp_path_factory.mktemp("sources")
    for kind, count in RECORDS.items():
        for part, numbers in enumerate((range(11), range(11, count))):
            write_lines(folder / kind / f"{part}.jsonl", [MAKE[kind](i) for i in numbers])
    return folder


def _config(make_config: Any, files: Path, workers: int = 0) -> PretrainConfig:
    blocks = {kind: dict(files=[f"{files}/{kind}"], batch_size=SLOTS, num_workers=workers) for kind in RECORDS}
    # As many texts as all regions may have, so that each image stays in its batch.
    blocks["regions"] |= dict(max_images=SLOTS, batch_size=5 * SLOTS, probability=0.5)
    blocks["texts"]["probability"] = 0.8
    return make_config(blocks)


@dataclass
class Seen:
    """What training gets from some steps on."""

    batches: dict[str, list[list[str]]] = field(default_factory=lambda: defaultdict(list))
    """Kind -> global batches -> what each slot gave."""
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(dict))


def _train(
    config: PretrainConfig, world: int, start: int = 0, stop: int = STEPS, ranks: Sequence[int] | None = None
) -> Seen:
    """All processes of a run (or some), one after the other, in the steps [start, stop)."""
    seen, plan = Seen(), Plan.of(config)
    first = plan.batches_before(start)
    for rank in range(world) if ranks is None else ranks:
        place = dict.fromkeys(RECORDS, 0)
        with ExitStack() as opened:
            sources = {kind: open_source(kind, config, rank=rank, world_size=world) for kind in RECORDS}
            streams = {kind: opened.enter_context(closing(s.batches(first[kind]))) for kind, s in sources.items()}
            for step in range(start, stop):
                for kind in plan.kinds_of_step(step):
                    if place[kind] == len(seen.batches[kind]):
                        seen.batches[kind].append([])
                    seen.batches[kind][place[kind]] += _slots(next(streams[kind]))
                    place[kind] += 1
        for kind, source in sources.items():
            add_tally(seen.tallies[kind], source.tally)
    return seen


def _slots(batch: ImageTextBatch | RegionTextBatch | ParallelTextBatch) -> list[str]:
    """One digest a slot: all that training gets from it, without what a rank draws again to fill a batch of regions."""
    if isinstance(batch, RegionTextBatch):
        rows: list[set[bytes]] = [set() for _ in batch.images]
        for text, image in enumerate(batch.image_of_text.tolist()):
            ids = batch.text.data[text, : int(batch.text.lengths[text])]
            rows[image].add(_bytes(ids, batch.boxes[text], batch.patches[text]))
        return [_digest(_bytes(image), *sorted(row)) for image, row in zip(batch.images, rows, strict=True)]
    masked = batch.masked if isinstance(batch, ImageTextBatch) else batch.source_masked
    digests = []
    for row, length in enumerate(masked.tokens.lengths.tolist()):
        mine = masked.rows == row
        other = (
            batch.images[row]
            if isinstance(batch, ImageTextBatch)
            else batch.target.data[row, : batch.target.lengths[row]]
        )
        digests.append(
            _digest(_bytes(masked.tokens.data[row, :length], masked.columns[mine], masked.labels[mine], other))
        )
    return digests


def _bytes(*tensors: Tensor) -> bytes:
    return b"|".join(tensor.numpy().tobytes() for tensor in tensors)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"|".join(parts)).hexdigest()


@pytest.fixture(scope="module")
def reference() -> dict[str, Seen]:
    """Filled by the first test that needs it."""
    return {}


@pytest.fixture
def whole(make_config: Any, files: Path, reference: dict[str, Seen]) -> Seen:
    """One process without workers, from the first step to the last."""
    if not reference:
        reference["whole"] = _train(_config(make_config, files), 1)
    return reference["whole"]


def test_each_source_gives_every_record_once_an_epoch(whole: Seen) -> None:
    for kind, records in RECORDS.items():
        batches = whole.batches[kind]
        assert {len(batch) for batch in batches} == {SLOTS}
        lines = [AuditLine(kind, epoch, records, count) for epoch, count in sorted(whole.tallies[kind].items())]
        done = len(batches) * SLOTS // records - 1  # what fills no batch at the end of an epoch comes within the next
        assert done >= 1 and [line.verdict for line in lines[:done]] == ["each once"] * done
        assert {line.verdict for line in lines[done:]} <= {"each once", "not finished"}
        once = [slot for batch in batches[: records // SLOTS] for slot in batch]
        assert len(set(once)) == len(once)


@pytest.mark.parametrize("world", [2, 4, 8])
def test_they_do_not_depend_on_the_number_of_processes(make_config: Any, files: Path, whole: Seen, world: int) -> None:
    assert _train(_config(make_config, files), world) == whole


@pytest.mark.slow
@pytest.mark.parametrize("world, workers", [(1, 2), (2, 2), (4, 3), (8, 2)])
def test_nor_on_that_of_the_workers(make_config: Any, files: Path, whole: Seen, world: int, workers: int) -> None:
    """One rank of each world, the last, since processes are slow to start; the ranks are put together above."""
    seen = _train(_config(make_config, files, workers), world, ranks=[world - 1])
    mine = slice(SLOTS - SLOTS // world, SLOTS)
    assert seen.batches == {kind: [batch[mine] for batch in batches] for kind, batches in whole.batches.items()}


def test_going_on_equals_the_rest_of_the_run(make_config: Any, files: Path, whole: Seen) -> None:
    """From step 0, and from where each source is within an epoch, at its last batch, or has just left it."""
    config = _config(make_config, files)
    plan, places = Plan.of(config), defaultdict(set)
    ends = {kind: [epoch * records // SLOTS for epoch in range(1, 5)] for kind, records in RECORDS.items()}
    for start, world in ((0, 4), (1, 2), (2, 1), (3, 8), (4, 2)):
        first, last = plan.batches_before(start), plan.batches_before(start + 4)
        rest = _train(config, world, start, start + 4)
        assert rest.batches == {kind: whole.batches[kind][first[kind] : last[kind]] for kind in rest.batches}
        for kind, bounds in ends.items():
            place = first[kind]
            named = "next" if place in bounds else "last" if place + 1 in bounds else "within"
            places[kind].add(named if place else "first")
    assert places == {
        "images": {"first", "within", "last", "next"},
        "regions": {"first", "last", "next"},  # two batches an epoch
        "texts": {"first", "within", "last", "next"},
    }
