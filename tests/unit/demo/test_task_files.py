"""Fine-tuning files of a tiny demo world: keys and paths as in the original data, every picture there, labels right."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from pathlib import Path

import demo_reading as reading
from PIL import Image

from cclm.demo.languages import BY_TASK, LANGUAGES

OTHERS = [code for code in LANGUAGES if code != "en"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def document(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_multi30k_and_coco_lists(world: Path) -> None:
    names = [
        f"multi30k/{split}.{code}" for split in ("train", "val", "test_2016_flickr") for code in BY_TASK["multi30k"]
    ]
    names += [
        "mscoco/" + name
        for name in (
            "en.train",
            "en.valid",
            "zh.train",
            "zh.val",
            "ja.train",
            "ja.valid",
            "en.1k_test",
            "zh.test",
            "ja.1k_test",
        )
    ]
    for name in names:
        entries = document(world / f"data/finetune/{name}.json")
        assert entries
        for entry in entries:
            assert entry.keys() == {"caption", "image", "image_id"}
            assert isinstance(entry["caption"], str if "train" in name else list)
            assert (world / "images" / entry["image"]).is_file()


def test_xvnli(world: Path) -> None:
    folder = world / "iglue/datasets/XVNLI"
    paths = [folder / f"annotations/en/{name}.jsonl" for name in ("train", "dev")]
    paths += [folder / f"annotations/{code}/test.jsonl" for code in LANGUAGES]
    paths += [folder / f"annotations/{code}/train_{n}.jsonl" for code in LANGUAGES for n in (1, 5, 10, 20, 25, 48)]
    paths += [folder / f"annotations_machine-translate/{code}/test.jsonl" for code in OTHERS]
    for path in paths:
        records = lines(path)
        labels = Counter(record["gold_label"] for record in records)
        assert set(labels) == {"entailment", "contradiction", "neutral"} and len(set(labels.values())) == 1
        for record in records:
            assert record.keys() == {"gold_label", "sentence1", "sentence2", "captionID", "pairID", "Flikr30kID"}
            assert (world / f"images/flickr30k-images/{record['Flikr30kID']}.jpg").is_file()
    assert len(lines(folder / "annotations/ar/train_48.jsonl")) == 3 * 48
    for path in (*paths[:3], paths[-1]):  # English: the premise tells the whole scene
        for record in lines(path):
            truth = {"entailment": True, "contradiction": False, "neutral": None}[record["gold_label"]]
            assert reading.true_of(record["sentence2"], reading.things("en", record["sentence1"])) is truth


def test_gqa_and_xgqa(world: Path) -> None:
    folder = world / "iglue/datasets/gqa/annotations"
    answers = document(folder / "trainval_ans2label.json")
    assert sorted(answers.values()) == list(range(len(answers)))
    for name in ("train", "valid", "testdev"):
        entries = document(folder / f"{name}.json")
        assert len({int(entry["question_id"]) for entry in entries}) == len(entries) > 0
        for entry in entries:
            assert entry.keys() == {"img_id", "label", "question_id", "sent"}
            assert entry["label"].keys() <= answers.keys()
            assert (world / f"images/gqa/{entry['img_id']}.jpg").is_file()
    english = document(world / "iglue/datasets/xGQA/annotations/few_shot/en/test.json")
    for code in BY_TASK["xgqa"]:
        few_shot = world / f"iglue/datasets/xGQA/annotations/few_shot/{code}"
        questions = document(few_shot / "test.json")
        assert {key: q["answer"] for key, q in questions.items()} == {key: q["answer"] for key, q in english.items()}
        pictures = {
            q["imageId"]
            for shots in (1, 5, 10, 20, 25, 48)
            for q in document(few_shot / f"train_{shots}.json").values()
        }
        assert len(pictures) == 48 and not pictures & {q["imageId"] for q in questions.values()}
        for question in (*questions.values(), *document(few_shot / "dev.json").values()):
            assert question.keys() == {"question", "imageId", "isBalanced", "answer", "fullAnswer"}
            assert question["answer"] in answers
            assert (world / f"images/gqa/{question['imageId']}.jpg").is_file()


def test_nlvr2(world: Path) -> None:
    folder = world / "iglue/datasets/nlvr2/annotations"
    for name, place in (("train", "images/train/{directory}"), ("dev", "dev"), ("test", "test1")):
        records = lines(folder / f"{name}.jsonl")
        assert {record["label"] for record in records} == {"True", "False"}
        for record in records:
            stem = record["identifier"].rsplit("-", 1)[0]
            for side in (0, 1):
                path = world / "images/nlvr2" / place.format(**record) / f"{stem}-img{side}.png"
                assert Image.open(path).format == "PNG"
        for entry in document(world / f"data/finetune/nlvr_en/nlvr_{name}.json"):
            assert all((world / "images/nlvr2" / image).is_file() for image in entry["images"])


def test_marvl(world: Path) -> None:
    folder = world / "iglue/datasets/marvl"
    keys = {"concept", "language", "caption", "left_img", "right_img", "chapter", "id", "label"}
    for code in BY_TASK["marvl"]:
        records = lines(folder / f"zero_shot/annotations/marvl-{code}.jsonl")
        if code != "en":
            records += lines(folder / f"zero_shot/annotations_machine-translate/marvl-{code}_gmt.jsonl")
        for record in records:
            assert record.keys() == keys and isinstance(record["label"], bool) and record["language"] == code
            pictures = world / f"images/marvl-images/{code}/images/{record['concept']}"
            assert (pictures / record["left_img"]).is_file() and (pictures / record["right_img"]).is_file()
        for shots, number in (("1", 4), ("10", 40), ("10x2", 80)):
            few = lines(folder / f"few_shot/annotations/marvl-{code}_train{shots}.jsonl")
            assert len(few) == number and sum(record["label"] for record in few) == number // 2
            for record in few:
                for side in ("left_img", "right_img"):
                    assert (world / f"images/marvl_fewshot/{code}/all" / record[side].split("/")[-1]).is_file()
        for entry in document(world / f"data/marvl/marvl-{code}.json"):
            assert all((world / image).is_file() for image in entry["images"])


def test_flickr30k_and_xflickrco(world: Path) -> None:
    iglue = world / "iglue/datasets"
    paths = [iglue / f"flickr30k/annotations/{split}_ann.jsonl" for split in ("train", "valid", "test")]
    paths += [iglue / f"xFlickrCO/annotations/{code}/test.jsonl" for code in LANGUAGES]
    paths += [iglue / f"xFlickrCO/annotations/{c}/train_{n}.jsonl" for c in LANGUAGES for n in (1, 5, 10, 25, 50, 100)]
    paths += [iglue / f"xFlickrCO/annotations_machine-translate/{code}/test_gmt.jsonl" for code in OTHERS]
    for path in paths:
        for record in lines(path):
            assert record.keys() == {"sentences", "id", "img_path"} and all(record["sentences"])
            root = "val2014" if "COCO" in record["img_path"] else "flickr30k-images"
            assert (world / "images" / root / record["img_path"]).is_file()
    assert len(lines(iglue / "xFlickrCO/annotations/tr/train_100.jsonl")) == 100
    tested = {"COCO" in record["img_path"] for record in lines(iglue / "xFlickrCO/annotations/ru/test.jsonl")}
    assert tested == {True, False}


def test_wit(world: Path) -> None:
    def pictures(folder: str) -> set[str]:
        rows = [
            line.split("\t")
            for path in sorted((world / "images" / folder).glob("*.csv"))
            for line in path.read_text().splitlines()
        ]
        for row in rows:
            assert Image.open(io.BytesIO(base64.b64decode(row[1], validate=True))).format == "JPEG"
        return {row[0] for row in rows}

    trained, tested = pictures("image_data_train/image_pixels"), pictures("wit_test")
    folder = world / "iglue/datasets/wit"
    for split in ("train", "val"):
        assert {record["image_url"] for record in lines(folder / f"annotations/{split}_en.jsonl")} <= trained
    paths = [folder / f"annotations/test_{code}.jsonl" for code in BY_TASK["wit"]]
    paths += [
        folder / f"annotations_machine-translate/test_{code}_gmt.jsonl" for code in BY_TASK["wit"] if code != "en"
    ]
    for path in paths:
        for record in lines(path):
            assert record["image_url"] in tested and record["caption_reference_description"]
