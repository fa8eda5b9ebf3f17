"""Batches from files: the same for any number of processes, exact on resume, whole, and typed."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from record_files import image_text, pair, region, write_lines

from cclm import storage
from cclm.config.pretrain import PretrainConfig
from cclm.data.batches.batch import ImageTextBatch, JoinedTextBatch, ParallelTextBatch, RegionTextBatch
from cclm.data.batches.loader import hurry_loader_processes, loader_context, open_source
from cclm.data.batches.workers import start_worker
from cclm.data.stored.files import data_files
from cclm.errors import UserError

BATCH = 8


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """50 records of each kind in three uneven files."""
    for kind, make in (("images", image_text), ("regions", region), ("texts", pair)):
        for part, numbers in enumerate((range(7), range(7, 40), range(40, 50))):
            write_lines(tmp_path / kind / f"part-{part}.jsonl", [make(i) for i in numbers])
    return {kind: str(tmp_path / kind) for kind in ("images", "regions", "texts")}


def _config(make_config: Any, files: dict[str, str], workers: int = 0, **blocks: Any) -> PretrainConfig:
    common = {kind: dict(files=[url], batch_size=BATCH, num_workers=workers) for kind, url in files.items()}
    common["regions"]["max_images"] = BATCH
    return make_config(common, **blocks)


def _digests(batch: ImageTextBatch | ParallelTextBatch) -> list[str]:
    """One digest an example: all that training sees of it."""
    result = []
    masked = batch.masked if isinstance(batch, ImageTextBatch) else batch.source_masked
    for row in range(len(masked.tokens)):
        length = int(masked.tokens.lengths[row])
        mine = masked.rows == row
        seen = [masked.tokens.data[row, :length].numpy(), masked.columns[mine].numpy(), masked.labels[mine].numpy()]
        if isinstance(batch, ImageTextBatch):
            seen.append(batch.images[row].numpy())
        else:
            seen.append(batch.target.data[row, : int(batch.target.lengths[row])].numpy())
        result.append(hashlib.sha256(b"|".join(part.tobytes() for part in seen)).hexdigest())
    return result


def _global_batches(kind: str, config: PretrainConfig, world: int, start: int, count: int) -> list[list[str]]:
    streams = [open_source(kind, config, rank=rank, world_size=world).batches(start) for rank in range(world)]
    result = [[digest for stream in streams for digest in _digests(next(stream))] for _ in range(count)]
    for stream in streams:
        stream.close()
    return result


def test_batches_do_not_depend_on_processes(make_config: Any, files: dict[str, str]) -> None:
    """More worlds, and several sources at once: test_side_by_side.py."""
    reference = _global_batches("images", _config(make_config, files), 1, 0, 8)
    assert _global_batches("images", _config(make_config, files, workers=2), 2, 0, 8) == reference
    assert len({digest for batch in reference[:6] for digest in batch}) == 6 * BATCH


@pytest.mark.parametrize("start", [0, 3, 5, 6, 7, 12])  # mid-epoch, last of an epoch, next epoch, carried remainder
def test_resuming_equals_going_on(make_config: Any, files: dict[str, str], start: int) -> None:
    config = _config(make_config, files)
    reference = _global_batches("texts", config, 1, 0, 15)
    assert _global_batches("texts", config, 2, start, 15 - start) == reference[start:]


def test_signals_to_the_process_group_do_not_take_the_data_away(make_config: Any, files: dict[str, str]) -> None:
    stream = open_source("texts", _config(make_config, files, workers=2), rank=0, world_size=1).batches(0)
    next(stream)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for pid in (*(worker.pid for worker in workers), forkserver._forkserver._forkserver_pid):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    for _ in range(8):  # more than what was prefetched
        next(stream)
    assert all(worker.is_alive() for worker in workers)
    stream.close()
    for worker in workers:
        worker.join(60)
    assert not any(worker.is_alive() for worker in workers)


def _tell_patience(connection: Connection) -> None:
    """A loader process that waits for a store, until it is told not to."""
    start_worker(0)
    storage.set_patience(1000)
    connection.send(storage.patience())
    while storage.patience() > 3:
        time.sleep(0.01)
    connection.send(storage.patience())


def test_loader_processes_wait_no_longer_for_stores_once_training_has_to_leave() -> None:
    context = loader_context()
    mine, theirs = context.Pipe()
    loading = context.Process(target=_tell_patience, args=(theirs,), daemon=True)
    loading.start()
    assert mine.recv() == 1000
    hurry_loader_processes()
    assert mine.recv() == 3
    loading.join()
    assert loading.exitcode == 0


def test_loader_processes_end_with_a_training_process_that_is_killed(make_config: Any, files: dict[str, str]) -> None:
    config = _config(make_config, files, workers=2)
    program = (
        "import sys, multiprocessing\n"
        "from cclm.config.pretrain import PretrainConfig\n"
        "from cclm.data.batches.loader import open_source\n"
        "config = PretrainConfig.model_validate_json(sys.stdin.read())\n"
        "stream = open_source('texts', config, rank=0, world_size=1).batches(0)\n"
        "next(stream)\n"
        "print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    training = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    training.stdin.write(config.model_dump_json())
    training.stdin.close()
    workers = [int(pid) for pid in training.stdout.readline().split()]
    assert len(workers) == 2
    training.kill()
    deadline = time.monotonic() + 120
    while any(_is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "loader processes outlive the training process"
        time.sleep(0.05)
    training.wait()
    training.stdout.close()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_each_record_is_seen_once_an_epoch(make_config: Any, files: dict[str, str], tokenizer: Any) -> None:
    stream = open_source("texts", _config(make_config, files), rank=0, world_size=1)
    assert stream.num_records == 50
    texts: list[str] = []
    for batch in itertools.islice(stream.batches(0), 25):  # 200 places = 4 epochs
        for ids, length in zip(batch.source.data.tolist(), batch.source.lengths.tolist(), strict=True):
            texts.append(tokenizer.backend.decode(ids[1 : length - 1]).split(" r")[-1])
    assert [texts.count(str(i)) for i in range(50)] == [4] * 50


def test_the_global_random_state_is_left_alone(make_config: Any, files: dict[str, str]) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    for workers in (0, 1):
        stream = open_source("images", _config(make_config, files, workers), rank=0, world_size=1).batches(0)
        next(stream), stream.close()
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[2]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_image_text_batches(make_config: Any, files: dict[str, str]) -> None:
    batch = next(open_source("images", _config(make_config, files), rank=0, world_size=2).batches(0))
    assert isinstance(batch, ImageTextBatch) and batch.second_text is None
    assert batch.images.shape == (4, 32, 32, 3) and batch.images.dtype == torch.uint8
    text, masked = batch.text, batch.masked
    assert torch.equal(text.at(masked.rows, masked.columns), masked.labels)
    assert (masked.columns > 0).all() and (masked.columns < text.lengths[masked.rows]).all()
    assert (text.data[:, 0] == 0).all() and text.data.shape[1] == int(text.lengths.max())
    same = text.data == masked.tokens.data
    same[masked.rows, masked.columns] = True
    assert same.all()
    moved = batch.to("meta")
    assert moved.images.is_meta and moved.masked.tokens.data.is_meta and moved.second_text is None


def test_two_captions_are_of_two_languages(make_config: Any, files: dict[str, str], tokenizer: Any) -> None:
    config = _config(make_config, files, objective={"sample_two_captions": True})
    batch = next(open_source("images", config, rank=0, world_size=1).batches(0))
    assert batch.second_text is not None and len(batch.second_text) == BATCH
    decode = tokenizer.backend.decode
    for one, two in zip(batch.text.data.tolist(), batch.second_text.data.tolist(), strict=True):
        first, second = (decode(ids, skip_special_tokens=True).strip() for ids in (one, two))
        german, english = (first, second) if first.startswith("ein ") else (second, first)
        assert german == f"ein {english}"


def test_tlm_joins_both_texts(make_config: Any, files: dict[str, str]) -> None:
    config = _config(make_config, files, objective={"use_tlm": True})
    batch = next(open_source("texts", config, rank=0, world_size=1).batches(0))
    assert isinstance(batch, JoinedTextBatch)
    whole = batch.joined.tokens.data.clone()
    whole[batch.joined.rows, batch.joined.columns] = batch.joined.labels
    for row in range(BATCH):
        first = batch.source.data[row, : int(batch.source.lengths[row])].tolist()
        second = batch.target.data[row, : int(batch.target.lengths[row])].tolist()
        assert whole[row, : int(batch.joined.tokens.lengths[row])].tolist() == [*first, *second[1:]]
        columns = batch.joined.columns[batch.joined.rows == row]
        assert (columns < len(first)).any() and (columns >= len(first)).any()


@pytest.mark.parametrize("texts", [4, 8, 40])
def test_region_batches_hold_exactly_the_texts_asked_for(make_config: Any, files: dict[str, str], texts: int) -> None:
    source = dict(files=[files["regions"]], batch_size=texts, max_images=8, num_workers=0)
    stream = open_source("regions", make_config({"regions": source}), rank=1, world_size=2)
    for batch in itertools.islice(stream.batches(0), 8):
        assert isinstance(batch, RegionTextBatch)
        count = texts // 2
        assert len(batch.text) == len(batch.masked.tokens) == count
        assert batch.patches.shape == (count, 1 + 16) and batch.patches.dtype == torch.bool
        assert batch.boxes.shape == (count, 4) and batch.boxes.dtype == torch.float32
        assert batch.images.shape[0] <= 4
        assert set(batch.image_of_text.tolist()) == set(range(len(batch.images)))
        whole = batch.is_whole_image
        assert batch.patches[whole].all() and (batch.boxes[whole] == torch.tensor([0.5, 0.5, 1, 1])).all()
        assert batch.patches[:, 0].all() and batch.patches[:, 1:].any(1).all()
        corners = torch.cat([batch.boxes[:, :2] - batch.boxes[:, 2:] / 2, batch.boxes[:, :2] + batch.boxes[:, 2:] / 2])
        assert corners.min() > -1e-6 and corners.max() < 1 + 1e-6 and (batch.boxes[:, 2:] > 0).all()
    assert stream.skipped == {}


def test_region_batches_are_reproduced(make_config: Any, files: dict[str, str]) -> None:
    config = _config(make_config, files)
    through, direct = (open_source("regions", config, rank=0, world_size=1).batches(start) for start in (0, 5))
    for _ in range(5):
        before = next(through)
    one, two = next(through), next(direct)
    assert torch.equal(one.images, two.images) and torch.equal(one.boxes, two.boxes)
    assert torch.equal(one.text.data, two.text.data) and not torch.equal(one.images, before.images)


def test_images_from_paths(make_config: Any, tmp_path: Path) -> None:
    from record_files import jpeg

    (tmp_path / "pictures").mkdir()
    for i in range(4):
        (tmp_path / "pictures" / f"{i}.jpg").write_bytes(jpeg(i))
    by_path = [{"img": f"{i}.jpg", "desc": ["a dog", "a cat"]} for i in range(4)]
    source = dict(
        files=[str(write_lines(tmp_path / "p.jsonl", by_path))], batch_size=4, num_workers=0, image_key="img",
        caption_key="desc", image_is_path=True, image_root=str(tmp_path / "pictures"),
    )  # fmt: skip
    stream = open_source("images_mono", make_config({"images_mono": source}), rank=0, world_size=1)
    assert next(stream.batches(0)).images.shape == (4, 32, 32, 3) and stream.skipped == {}
    (tmp_path / "pictures" / "2.jpg").unlink()
    next(stream.batches(0))
    assert stream.skipped == {"missing image file": 1}
    no_paths = [{**by_path[0], "img": "x" * 300}, {**by_path[0], "img": "a\0b"}, *by_path[:2]]  # an image itself, ...
    source["files"] = [str(write_lines(tmp_path / "q.jsonl", no_paths))]
    stream = open_source("images_mono", make_config({"images_mono": source}), rank=0, world_size=1)
    assert next(stream.batches(0)).images.shape == (4, 32, 32, 3) and stream.skipped == {"missing image file": 2}


def test_a_slot_reads_ahead_in_one_request(
    make_config: Any, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges: list[tuple[str, int, int]] = []
    original = storage.read_range

    def counted(url: str, start: int, end: int) -> bytes:
        ranges.append((url, start, end))
        return original(url, start, end)

    monkeypatch.setattr(storage, "read_range", counted)
    config = make_config({"texts": dict(files=[files["texts"]], batch_size=1, num_workers=0)})
    stream = open_source("texts", config, rank=0, world_size=1).batches(0)
    ranges.clear()  # the scan of the index
    for _ in range(50):
        next(stream)
    stream.close()
    read = [one for one in ranges if not one[0].endswith(".idx")][:-1]  # the last one is ahead, of the next epoch
    sizes = sum(storage.size(url) for url in data_files("k", [files["texts"]]))
    assert len(read) < 15 and len(set(read)) == len(read)
    assert sum(end - start for _, start, end in read) == sizes  # every byte once


def test_contradictions_are_refused_before_reading(make_config: Any, files: dict[str, str]) -> None:
    config = _config(make_config, files)
    with pytest.raises(UserError, match=r"data\.images\.batch_size = 8 cannot be shared evenly by 3 processes"):
        open_source("images", config, rank=0, world_size=3)
    with pytest.raises(UserError, match=r"no data\.images_mono"):
        open_source("images_mono", config, rank=0, world_size=1)
    missing = make_config({"texts": dict(files=[files["texts"] + "-none"], batch_size=2)})
    with pytest.raises(UserError, match=r"data\.texts\.files: .*-none does not exist"):
        open_source("texts", missing, rank=0, world_size=1)


def test_too_little_shared_memory_is_one_sentence(make_config: Any, files: dict[str, str]) -> None:
    config = _config(make_config, files, workers=2)
    vision = config.model.vision.model_copy(update={"image_size": 1 << 22})  # 1 PB
    config = config.model_copy(update={"model": config.model.model_copy(update={"vision": vision})})
    message = r"^data\.images: no shared memory .* MiB \(.+\); mount a larger /dev/shm, or lower num_workers"
    with pytest.raises(UserError, match=message):
        next(open_source("images", config, rank=0, world_size=1).batches(0))
