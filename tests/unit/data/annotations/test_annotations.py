"""Retrieval lists and what evaluation encodes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from record_files import jpeg

from cclm.config.sources import ImageTextSource
from cclm.data.annotations.annotation_sets import ImageRef
from cclm.data.annotations.flickr import read_xflickrco
from cclm.data.annotations.lists import read_retrieval_list, read_retrieval_lists
from cclm.data.annotations.missing import missing_images
from cclm.data.batches.evaluation_batches import evaluation_images
from cclm.data.examples.images import evaluation_image
from cclm.data.examples.texts import caption_ids
from cclm.data.examples.tokenizer import Tokenizer
from cclm.data.stored.files import data_files
from cclm.data.stored.records import BrokenRecord, parse_image_text
from cclm.errors import UserError


def _write(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_list_becomes_images_and_texts(tmp_path: Path) -> None:
    entries = [
        {"image": "a/1.jpg", "caption": ["one", "two"], "image_id": 77},
        {"image": "a/2.jpg", "caption": "three"},
    ]
    found = read_retrieval_list(_write(tmp_path / "l.json", entries), "root")
    assert [image.url for image in found.images] == ["root/a/1.jpg", "root/a/2.jpg"] and found.image_ids == [
        77,
        "a/2.jpg",
    ]
    assert found.texts == ["one", "two", "three"] and found.image_of_text == [0, 0, 1]


def test_an_empty_id_is_no_identity(tmp_path: Path) -> None:
    """All pictures with it would count as one."""
    entries = [
        {"image": "1.jpg", "caption": "one", "image_id": 1},
        {"image": "2.jpg", "caption": "two", "image_id": ""},
    ]
    path = _write(tmp_path / "l.json", entries)
    with pytest.raises(UserError, match="l.json, entry 1: image_id is empty; write one, or leave image_id out"):
        read_retrieval_list(path)


def test_captions_of_single_words_are_a_remark(tmp_path: Path) -> None:
    captions = [["a dog", "cat"], ["red", "circle"], ["一只狗", "一只猫"], "dog", ["a", "red", "dog", "on", "grass"]]
    entries = [{"image": f"{i}.jpg", "caption": caption} for i, caption in enumerate(captions)]
    path = _write(tmp_path / "l.json", entries)
    assert read_retrieval_list(path).remarks() == [
        f"2 images with captions of single words, each taken for a caption of its own ({path}, entry 1: red, circle); "
        "join them if they are the words of one caption"
    ]
    assert read_retrieval_list(_write(tmp_path / "good.json", entries[:1] + entries[2:4])).remarks() == []


def test_without_an_id_the_path_is_the_identity(tmp_path: Path) -> None:
    """One entry for each caption is one picture, and entry n of one list is not entry n of another."""
    first = [{"image": name, "caption": text} for text in ("one", "two") for name in ("1.jpg", "2.jpg")]
    second = [{"image": "3.jpg", "caption": "three"}, {"image": "1.jpg", "caption": "four", "image_id": None}]
    paths = [_write(tmp_path / "first.json", first), _write(tmp_path / "second.json", second)]
    found = read_retrieval_lists(paths, "root")
    assert found.image_ids == ["1.jpg", "2.jpg", "3.jpg"]
    assert [image.url for image in found.images] == ["root/1.jpg", "root/2.jpg", "root/3.jpg"]
    assert found.image_of_text == [0, 1, 0, 1, 2, 0]
    spelt = [{"image": name, "caption": name} for name in ("a/1.jpg", "./a/1.jpg", "a//1.jpg", "a/./1.jpg")]
    path = _write(tmp_path / "spelt.json", spelt)
    assert read_retrieval_lists([path], "root").image_ids == ["a/1.jpg"]
    assert len(read_retrieval_lists([path], "s3://bucket/root").image_ids) == 4  # other keys there
    lines = [{"sentences": ["a dog"], "img_path": f"{i}.jpg"} for i in (1, 2, 1)]
    flickr = read_xflickrco(
        [_write(tmp_path / "test.jsonl", "\n".join(map(json.dumps, lines)))], {"coco": "", "flickr30k": ""}
    )
    assert flickr.image_ids == ["1.jpg", "2.jpg"] and flickr.image_of_text == [0, 1, 0]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not a JSON file"),
        ({"a": 1}, "a list of annotations is expected"),
        ([], "the list is empty; at least one annotation"),
        ([{"image": "1.jpg", "caption": ["x"]}, {"image": "2.jpg"}], "entry 1: caption is missing"),
        ([{"caption": ["x"]}], "entry 0: image is missing"),
        ([{"image": "1.jpg", "caption": []}], "entry 0: the image 1.jpg has no caption"),
        ([{"image": "1.jpg", "caption": [5]}], "entry 0: caption has to be a text"),
        ([{"image": "1.jpg", "caption": ["...", "x"]}], "entry 0: the caption '...' is empty"),
        (["1.jpg"], "entry 0: not an object"),
    ],
)
def test_errors_name_the_file_and_the_entry(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_retrieval_list(_write(tmp_path / "list.json", content), "root")
    assert "list.json" in str(caught.value)
    with pytest.raises(UserError, match="none.json does not exist"):
        read_retrieval_list(str(tmp_path / "none.json"), "root")


def test_images_come_in_order_and_in_batches(tmp_path: Path) -> None:
    paths = []
    for i in range(7):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
        paths.append(str(tmp_path / f"{i}.jpg"))
    batches = list(evaluation_images([ImageRef(path) for path in paths], 32, 3))
    assert [len(batch) for batch in batches] == [3, 3, 1] and batches[0].shape[1:] == (32, 32, 3)
    expected = np.stack([evaluation_image(jpeg(i), 32) for i in range(7)])
    assert torch.equal(torch.cat(batches), torch.from_numpy(expected))
    assert list(evaluation_images([], 32, 3)) == []


def test_missing_and_broken_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "half.jpg").write_bytes(jpeg(1)[:-200])
    with pytest.raises(UserError, match="half.jpg cannot be read"):
        list(evaluation_images([ImageRef(str(tmp_path / "half.jpg"))], 32, 3))
    with pytest.raises(UserError, match="none.jpg does not exist"):
        list(evaluation_images([ImageRef(str(tmp_path / "none.jpg"))], 32, 3))


def test_an_image_under_the_other_unicode_form_of_its_name_is_named(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    for written, on_disk in ((composed, decomposed), (decomposed, composed)):
        folder = tmp_path / str(len(on_disk))
        folder.mkdir()
        (folder / on_disk).write_bytes(jpeg(1))
        dataset = read_retrieval_list(_write(tmp_path / "l.json", [{"image": written, "caption": "a"}]), str(folder))
        for look in (lambda found: missing_images(found, "error"), lambda found: found.images[0].read()):
            with pytest.raises(UserError, match="but its accents are written in the other way of Unicode.*convmv"):
                look(dataset)
        source = ImageTextSource(files=("x",), batch_size=1, image_is_path=True, image_root=str(folder))
        with pytest.raises(BrokenRecord, match="accents"):
            parse_image_text(json.dumps({source.image_key: written, "caption": "a"}).encode(), source)
        with pytest.raises(UserError, match="accents"):
            read_retrieval_list(str(folder / written))
        with pytest.raises(UserError, match="accents"):
            data_files("data.images.files", [str(folder / written)])
    with pytest.raises(UserError, match="does not exist; correct the path"):
        read_retrieval_list(str(tmp_path / "th\u00e9.json"))


def test_captions_are_cleaned_and_cut_and_an_empty_one_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = ["A red ball, on the grass!", "a dog", "a cat " * 60, "a bird"]
    dataset = read_retrieval_list(_write(tmp_path / "val.json", [{"image": "i.jpg", "caption": texts}]))
    dataset = replace(dataset, texts=[*texts[:3], "..."])
    ids = caption_ids(dataset, range(3), tokenizer, 30, 20)
    assert ids[0] == tokenizer.ids("a red ball on the grass", 20)
    assert ids[1] == tokenizer.ids("a dog", 20)
    assert len(ids[2]) == 20 and ids[2][-1] == tokenizer.eos
    with pytest.raises(UserError, match="val.json, entry 0, caption '...': .*empty"):
        caption_ids(dataset, [3], tokenizer, 30, 20)
    as_it_is = replace(dataset, uncleaned_if_empty=True)
    assert caption_ids(as_it_is, [3], tokenizer, 30, 20) == [tokenizer.ids("...", 20)]
