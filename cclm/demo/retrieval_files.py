"""Files of the retrieval tasks: Multi30K and COCO lists, Flickr30k and xFlickr&CO, WIT."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

from cclm.demo.captions import caption
from cclm.demo.languages import BY_TASK, LANGUAGES, TEST_ONLY
from cclm.demo.languages.base import Language
from cclm.demo.scenes import Scene, distinct_test_scenes, training_scene
from cclm.demo.world_writer import WorldWriter, cut

_XFLICKRCO_SHOTS = (1, 5, 10, 25, 50, 100)
"""Pictures of each few-shot file."""
_FLICKR = "iglue/datasets/flickr30k/annotations"
_XFLICKRCO = "iglue/datasets/xFlickrCO"
_WIT = "iglue/datasets/wit"


class _CocoFiles(NamedTuple):
    """Names of a language's lists of COCO."""

    train: str
    valid: str
    test: str
    captions: int
    """Number of captions of each picture."""


_COCO_FILES = {
    "en": _CocoFiles("en.train", "en.valid", "en.1k_test", captions=2),
    "zh": _CocoFiles("zh.train", "zh.val", "zh.test", captions=1),
    "ja": _CocoFiles("ja.train", "ja.valid", "ja.1k_test", captions=2),
}


def write_multi30k(world: WorldWriter, flickr: Mapping[str, Mapping[str, Scene]]) -> None:
    """`data/finetune/multi30k`, with training lists in all languages: some published configs train on several.

    Args:
        flickr: scenes by picture id, by split.
    """
    for code in BY_TASK["multi30k"]:
        for split, name in (("train", "train"), ("valid", "val"), ("test", "test_2016_flickr")):
            paths = {f"flickr30k-images/{picture}.jpg": scene for picture, scene in flickr[split].items()}
            _lists(world, f"data/finetune/multi30k/{name}.{code}.json", code, paths, 1, split == "train", "multi30k")


def write_coco(world: WorldWriter, train: int, test: int) -> None:
    """`data/finetune/mscoco` and its pictures under `images/coco`.

    Args:
        train, test: scenes of the training set, and of the validation and the test set each.
    """
    tests = distinct_test_scenes(2 * test, world.rng("coco", "test"))
    splits = {
        "train": [training_scene(world.rng("coco", "train", number)) for number in range(train)],
        "valid": tests[:test],
        "test": tests[test:],
    }
    first = 139
    for split, scenes in splits.items():
        folder = "train2014" if split == "train" else "val2014"
        paths = {
            f"coco/{folder}/COCO_{folder}_{first + 61 * number:012d}.jpg": scene for number, scene in enumerate(scenes)
        }
        first += 61 * len(scenes)
        for path, scene in paths.items():
            world.picture(f"images/{path}", scene)
        for code, files in _COCO_FILES.items():
            path = f"data/finetune/mscoco/{getattr(files, split)}.json"
            _lists(world, path, code, paths, files.captions, split == "train", "mscoco")


def write_flickr(world: WorldWriter, flickr: Mapping[str, Mapping[str, Scene]]) -> None:
    """Flickr30k (English, five sentences a picture) and xFlickr&CO (one, and half of its test pictures from COCO).

    Args:
        flickr: scenes by picture id, by split.
    """
    for split in ("train", "valid", "test"):
        records = [_flickr_record(world, "en", f"{name}.jpg", scene, 5) for name, scene in flickr[split].items()]
        world.json_lines(f"{_FLICKR}/{split}_ann.jsonl", records, f"flickr30k {split}")
    half = len(flickr["test"]) // 2
    pictures = {f"{name}.jpg": scene for name, scene in islice(flickr["test"].items(), half)}
    coco = distinct_test_scenes(len(flickr["test"]) - half, world.rng("xflickrco"), list(flickr["test"].values()))
    for number, scene in enumerate(coco):
        name = f"COCO_val2014_{500_000 + 83 * number:012d}.jpg"
        pictures[name] = scene
        world.picture(f"images/val2014/{name}", scene)
    for code in LANGUAGES:
        records = [_flickr_record(world, code, name, scene, 1) for name, scene in pictures.items()]
        world.json_lines(f"{_XFLICKRCO}/annotations/{code}/test.jsonl", records, "xFlickrCO test")
        for shots in _XFLICKRCO_SHOTS:
            few = islice(flickr["few"].items(), shots)
            records = [_flickr_record(world, code, f"{name}.jpg", scene, 1) for name, scene in few]
            world.json_lines(f"{_XFLICKRCO}/annotations/{code}/train_{shots}.jsonl", records, "xFlickrCO few-shot")
        if code != "en":
            records = [_flickr_record(world, "en", name, scene, 1, "gmt", code) for name, scene in pictures.items()]
            path = f"{_XFLICKRCO}/annotations_machine-translate/{code}/test_gmt.jsonl"
            world.json_lines(path, records, "xFlickrCO machine-translated")


def write_wit(world: WorldWriter, train: int, test: int) -> None:
    """WIT: captions by URL, pictures as base64 in tab-separated files. Some pictures have two captions.

    Args:
        train, test: scenes of the training set, and of the validation and the test set each.
    """
    tests = distinct_test_scenes(2 * test, world.rng("wit", "test"))
    splits = {
        "train": [training_scene(world.rng("wit", "train", number)) for number in range(train)],
        "val": tests[:test],
        "test": tests[test:],
    }
    rows = {
        split: [_wit_row(world, split, number, scene) for number, scene in enumerate(scenes)]
        for split, scenes in splits.items()
    }
    pixels = "images/image_data_train/image_pixels/train_image_pixels_part"
    for part, chunk in enumerate(cut(rows["train"] + rows["val"], 2)):
        world.tab_separated(f"{pixels}-{part:05d}.csv", chunk)
    # Validation pictures are in both places, so that a reader finds them in either.
    for part, chunk in enumerate(cut(rows["val"] + rows["test"], 2)):
        world.tab_separated(f"images/wit_test/test_image_pixels_part-{part:05d}.csv", chunk)
    for split in ("train", "val"):
        records = _wit_records(world, split, "en", splits[split])
        world.json_lines(f"{_WIT}/annotations/{split}_en.jsonl", records, f"wit {split}")
    for code in BY_TASK["wit"]:
        records = _wit_records(world, "test", code, splits["test"])
        world.json_lines(f"{_WIT}/annotations/test_{code}.jsonl", records, "wit test")
        if code != "en":
            records = _wit_records(world, "test", code, splits["test"], translated=True)
            path = f"{_WIT}/annotations_machine-translate/test_{code}_gmt.jsonl"
            world.json_lines(path, records, "wit machine-translated")


def _language(code: str) -> Language:
    return (LANGUAGES | TEST_ONLY)[code]


def _lists(
    world: WorldWriter, path: str, code: str, paths: Mapping[str, Scene], captions: int, training: bool, kind: str
) -> None:
    """A list of Multi30K or COCO. Training lists have one entry a caption, the others one entry a picture."""
    entries: list[dict[str, Any]] = []
    for number, (image, scene) in enumerate(paths.items()):
        texts = [caption(scene, _language(code), world.rng(path, number, i)) for i in range(captions)]
        if training:
            entries += [{"caption": text, "image": image, "image_id": number} for text in texts]
        else:
            entries.append({"image": image, "caption": texts, "image_id": number})
    world.json(path, entries, f"{kind} {'train' if training else 'val and test'}")


def _flickr_record(
    world: WorldWriter, code: str, path: str, scene: Scene, sentences: int, *seed: str
) -> dict[str, Any]:
    """A line of Flickr30k or xFlickr&CO with so many sentences. Another `seed` gives other wordings."""
    language = LANGUAGES[code]
    texts = [caption(scene, language, world.rng("flickr", code, path, sentences, i, *seed)) for i in range(sentences)]
    identity = path.removesuffix(".jpg")
    if identity.startswith("COCO_"):
        identity = str(int(identity.rsplit("_", 1)[1]))
    return {"sentences": texts, "id": identity, "img_path": path}


def _wit_url(split: str, number: int) -> str:
    return f"https://upload.example.org/wikipedia/commons/{number % 16:x}/Scene_{split}_{number}.jpg"


def _wit_row(world: WorldWriter, split: str, number: int, scene: Scene) -> tuple[str, str, str]:
    meta = f"http://commons.example.org/wiki/File:Scene_{split}_{number}.jpg"
    return _wit_url(split, number), world.base64_jpeg(scene), meta


def _wit_records(
    world: WorldWriter, split: str, code: str, scenes: list[Scene], translated: bool = False
) -> list[dict[str, Any]]:
    written = "en" if translated else code
    records: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        for copy in range(2 if number % 10 == 9 else 1):
            text = caption(scene, _language(written), world.rng("wit", split, code, number, copy, translated))
            records.append(
                {
                    "language": code,
                    "page_url": f"https://{code}.example.org/wiki/Scene_{split}_{number}_{copy}",
                    "image_url": _wit_url(split, number),
                    "caption_reference_description": text,
                    "wit_ix": f"wit-{split}_{len(records)}",
                }
            )
    return records
