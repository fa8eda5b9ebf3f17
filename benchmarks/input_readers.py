"""The contenders of `benchmarks.input`, and the files they read."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import Barrier, Process, Value
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cclm import storage
from cclm.config.pretrain import PretrainConfig
from cclm.data.batches.collate import collate_image_text
from cclm.data.batches.loader import open_source
from cclm.data.examples.images import training_image
from cclm.data.examples.pretraining_examples import ImageTextExample, image_text_example
from cclm.data.examples.tokenizer import load_tokenizer
from cclm.data.stored.reading import Stream
from cclm.data.stored.records import ImageTextRecord
from cclm.data.stored.tar import END_MARK, write_member

FILES = 4
PHOTOS = 400
"""Different photos. Records share them, so that writing the files does not take longer than measuring."""
_WORDS = "a red dog runs over green grass near two old houses while people watch from their windows".split()
LANGUAGES = ("en", "de", "fr", "zh")


@dataclass(frozen=True)
class WrittenFiles:
    """What `write_files` has written."""

    jpeg_bytes: int
    """Size of all images of one kind of file, bytes."""
    tokenizer: str
    """Folder of the tokenizer."""


@dataclass(frozen=True)
class Measurement:
    """What one process measures."""

    contender: str
    """Name in `CONTENDERS_AND_LIMIT`."""
    url: str
    """Folder of the data."""
    store: str
    """local, s3 or hdfs."""
    tokenizer: str
    """Folder of the tokenizer."""
    batch_size: int
    side: int
    """Of an input image, px."""
    workers: int
    """Loader processes."""

    def config(self, kind: str) -> PretrainConfig:
        """A config that reads the files of a kind, lines or tar."""
        vision = dict(image_size=self.side, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=7)
        text = dict(vocab_size=400, hidden_size=32, num_heads=2, intermediate_size=64, num_layers=2, num_text_layers=1)
        source = dict(files=[storage.join(self.url, kind)], batch_size=self.batch_size, num_workers=self.workers)
        return PretrainConfig.model_validate(
            {"model": {"vision": vision, "text": {**text, "tokenizer": self.tokenizer}}, "data": {"images": source}}
        )


def write_files(folder: Path, records: int, side: int) -> WrittenFiles:
    """Write the same records as line-JSON (`data/lines`) and as tar shards (`data/tar`), and a tokenizer."""
    rng = np.random.default_rng(1)
    texts = random.Random(1)
    photos = [_photo(rng) for _ in range(min(records, PHOTOS))]
    total = 0
    for kind in ("lines", "tar"):
        (folder / "data" / kind).mkdir(parents=True)
    for file in range(FILES):
        with (
            (folder / f"data/lines/{file}.jsonl").open("wb") as lines,
            (folder / f"data/tar/{file}.tar").open("wb") as tar,
        ):
            for number in range(file, records, FILES):
                jpeg = photos[number % len(photos)]
                total += len(jpeg)
                captions = {language: " ".join(texts.choices(_WORDS, k=12)) for language in LANGUAGES}
                fields = {"binary": base64.b64encode(jpeg).decode(), "caption": captions}
                lines.write(json.dumps(fields).encode() + b"\n")
                tar.write(write_member(f"{number:08d}.jpg", jpeg))
                tar.write(write_member(f"{number:08d}.json", json.dumps({"caption": captions}).encode()))
            tar.write(END_MARK)
    return WrittenFiles(total, _tokenizer(folder / "tokenizer"))


def _photo(rng: np.random.Generator) -> bytes:
    """A JPEG of smooth colours and grain. It has about 100 kB, as a photo of 512 x 384 px has."""
    small = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((512, 384), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = rng.normal(0, 14, smooth.shape).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _tokenizer(folder: Path) -> str:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    built = tokenizers.Tokenizer(models.Unigram())
    built.pre_tokenizer, built.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    built.train_from_iterator([" ".join(_WORDS)] * 50, trainer)
    built.add_special_tokens(["<mask>"])
    built.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    folder.mkdir()
    built.save(str(folder / "tokenizer.json"))
    return str(folder)


# --------------------------------------------------------------------------------------------------------- contenders


def limit(measurement: Measurement) -> Iterator[int]:
    """Decoding and transforming alone: images in memory, one process a core, nothing handed over."""
    count, ready = Value("q", 0), Barrier(measurement.workers + 1)
    for number in range(measurement.workers):
        Process(target=_decode_forever, args=(measurement, number, count, ready), daemon=True).start()
    ready.wait()  # they have read the images, which is not to be measured
    seen = 0
    while True:
        time.sleep(0.05)
        done = count.value
        yield done - seen
        seen = done


def _decode_forever(measurement: Measurement, number: int, count: Value, ready: Barrier) -> None:
    torch.set_num_threads(1)
    images = []  # as many as there are: a few would stay in the processor's cache, which those of a data set do not
    for file in range(number, FILES, measurement.workers):
        with tarfile.open(Path(measurement.tokenizer).parent / f"data/tar/{file}.tar") as archive:
            images += [archive.extractfile(member).read() for member in archive if member.name.endswith(".jpg")]
    augment, rng = measurement.config("tar").data.augment, random.Random(number)
    out = np.empty((measurement.batch_size, measurement.side, measurement.side, 3), dtype=np.uint8)
    ready.wait()
    while True:
        for place, image in enumerate(images):
            out[place % measurement.batch_size] = training_image(image, measurement.side, augment, rng)
            with count.get_lock():
                count.value += 1


def ours(measurement: Measurement, kind: str) -> Iterator[int]:
    """Our own loader, on the files of a kind."""
    for batch in open_source("images", measurement.config(kind), rank=0, world_size=1).batches(0):
        yield len(batch.images)


class _Maker:
    """Makes examples of records, and batches of examples, with our own functions: the same work for all contenders."""

    def __init__(self, measurement: Measurement) -> None:
        self._config = measurement.config("lines")
        self._tokenizer = load_tokenizer(measurement.tokenizer)
        self._side = measurement.side
        self._rng = random.Random()

    def example(self, image: bytes, captions: dict[str, str]) -> tuple[ImageTextExample, np.ndarray]:
        record = ImageTextRecord(image, ({language: (text,) for language, text in captions.items()},))
        data = self._config.data
        undecoded = image_text_example(record, data.images, data.augment, self._side, False, self._tokenizer, self._rng)
        return undecoded.example, undecoded.decode()

    def batch(self, examples: list[tuple[ImageTextExample, np.ndarray]]):
        images = torch.from_numpy(np.stack([image for _, image in examples]))
        return collate_image_text(images, [example for example, _ in examples], self._rng, self._tokenizer.pad)


class _Published(IterableDataset):
    """The published scheme: each loader process reads whole files line by line. Only the files are shuffled."""

    def __init__(self, measurement: Measurement) -> None:
        self._measurement, self._maker = measurement, _Maker(measurement)

    def __iter__(self) -> Iterator[tuple[ImageTextExample, np.ndarray]]:
        torch.set_num_threads(1)
        files = [f"{storage.join(self._measurement.url, 'lines')}/{file}.jsonl" for file in range(FILES)]
        info, rng = get_worker_info(), random.Random(0)
        while True:
            rng.shuffle(files)
            for url in files[info.id :: info.num_workers]:
                for line in _open(url):
                    fields = json.loads(line)
                    yield self._maker.example(base64.b64decode(fields["binary"]), fields["caption"])


def _open(url: str, *_: object, **__: object):
    if storage.is_local(url):
        return open(storage.local_path(url), "rb")
    return io.BufferedReader(Stream(url, storage.size(url), lambda _: None), 1 << 20)


def published(measurement: Measurement) -> Iterator[int]:
    """The published scheme."""
    dataset = _Published(measurement)
    loader = DataLoader(
        dataset,
        batch_size=measurement.batch_size,
        num_workers=measurement.workers,
        collate_fn=dataset._maker.batch,
        prefetch_factor=2,
    )
    yield from (len(batch.images) for batch in loader)


def webdataset(measurement: Measurement) -> Iterator[int]:
    """WebDataset, on tar shards."""
    import importlib

    import webdataset as wds

    gopen = importlib.import_module("webdataset.gopen")  # the package has a function of that name

    for scheme in ("s3", "hdfs"):
        gopen.gopen_schemes[scheme] = _open
    maker = _Maker(measurement)
    urls = [f"{storage.join(measurement.url, 'tar')}/{file}.tar" for file in range(FILES)]
    records = wds.WebDataset(urls, shardshuffle=FILES, empty_check=False).repeat().shuffle(1000)
    examples = records.map(lambda sample: maker.example(sample["jpg"], json.loads(sample["json"])["caption"]))
    batches = examples.batched(measurement.batch_size, collation_fn=maker.batch, partial=False)
    loader = wds.WebLoader(batches, batch_size=None, num_workers=measurement.workers, prefetch_factor=2)
    yield from (len(batch.images) for batch in loader)


def datasets(measurement: Measurement) -> Iterator[int]:
    """Hugging Face's datasets, on line-JSON."""
    import datasets as hf

    maker = _Maker(measurement)
    files = [f"{storage.join(measurement.url, 'lines')}/{file}.jsonl" for file in range(FILES)]
    options = None
    if measurement.store == "s3":
        from tests.stores.objects import KEY, SECRET

        options = dict(key=KEY, secret=SECRET, endpoint_url=os.environ["FSSPEC_S3_ENDPOINT_URL"])
    records = hf.load_dataset("json", data_files=files, split="train", streaming=True, storage_options=options)
    records = records.repeat(None).shuffle(seed=1, buffer_size=1000)

    def collate(rows: list[dict]):
        return maker.batch([maker.example(base64.b64decode(row["binary"]), row["caption"]) for row in rows])

    loader = DataLoader(
        records,
        batch_size=measurement.batch_size,
        num_workers=measurement.workers,
        collate_fn=collate,
        prefetch_factor=2,
    )
    yield from (len(batch.images) for batch in loader)


CONTENDERS: dict[str, Callable[[Measurement], Iterator[int]]] = {
    "ours/lines": partial(ours, kind="lines"),
    "ours/tar": partial(ours, kind="tar"),
    "published": published,
    "webdataset": webdataset,
    "datasets": datasets,
}
CONTENDERS_AND_LIMIT = {"limit": limit, **CONTENDERS}
