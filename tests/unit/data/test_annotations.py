"""Retrieval lists and what evaluation encodes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from record_files import jpeg

from cclm.data.annotations.lists import read_retrieval_list
from cclm.data.annotations.types import ImageRef
from cclm.data.evaluation_batches import evaluation_images, evaluation_texts
from cclm.data.images import evaluation_image
from cclm.data.text import Tokenizer, clean_caption
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
    assert [image.url for image in found.images] == ["root/a/1.jpg", "root/a/2.jpg"] and found.image_ids == [77, 1]
    assert found.texts == ["one", "two", "three"] and found.image_of_text == [0, 0, 1]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not a JSON file"),
        ({"a": 1}, "a list of annotations is expected"),
        ([], "at least one"),
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
    assert [len(batch) for batch in batches] == [3, 3, 1] and batches[0].shape[1:] == (3, 32, 32)
    expected = np.stack([evaluation_image(jpeg(i), 32) for i in range(7)])
    assert torch.equal(torch.cat(batches), torch.from_numpy(expected))
    assert list(evaluation_images([], 32, 3)) == []


def test_missing_and_broken_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "half.jpg").write_bytes(jpeg(1)[:-200])
    with pytest.raises(UserError, match="half.jpg cannot be read"):
        list(evaluation_images([ImageRef(str(tmp_path / "half.jpg"))], 32, 3))
    with pytest.raises(UserError, match="none.jpg does not exist"):
        list(evaluation_images([ImageRef(str(tmp_path / "none.jpg"))], 32, 3))


def test_texts_are_cleaned_cut_and_padded(tokenizer: Tokenizer) -> None:
    texts = ["A red ball, on the grass!", "a dog", "a cat " * 60]
    batches = list(evaluation_texts(texts, tokenizer, 30, 20, 2))
    assert [len(batch) for batch in batches] == [2, 1]
    assert batches[0].data[1, : batches[0].lengths[1]].tolist() == tokenizer.ids(clean_caption("a dog", 30), 20)
    assert (batches[0].data[1, batches[0].lengths[1] :] == tokenizer.pad).all()
    assert batches[1].data.shape == (1, 20) and batches[1].data[0, -1] == tokenizer.eos
    with pytest.raises(UserError, match="caption 1 .*empty"):
        list(evaluation_texts(["a dog", "..."], tokenizer, 30, 20, 2))
