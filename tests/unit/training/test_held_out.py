"""Held-out lists that cannot be measured are found out before a model is built."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cclm import storage
from cclm.config.pretrain import EvaluationConfig
from cclm.errors import UserError
from cclm.training.held_out import HeldOut
from tests.letters import TOKENIZER


@pytest.fixture
def lists(tmp_path):
    """Writes one list a language over two shared images, and returns the evaluation block."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)

    def write(image_root: str | None = None, **captions: list[list[str]]) -> EvaluationConfig:
        files = {}
        for language, of_images in captions.items():
            entries = [
                {"image": name, "caption": texts} for name, texts in zip(["a.png", "b.png"], of_images, strict=True)
            ]
            files[language] = str(tmp_path / f"{language}.json")
            Path(files[language]).write_text(json.dumps(entries))
        return EvaluationConfig(files=files, image_root=image_root or str(tmp_path / "images"))

    return write


def test_good_lists_look_for_each_image_once(lists, tmp_path, monkeypatch):
    checked = []
    real = storage.is_file
    monkeypatch.setattr(storage, "is_file", lambda url: (checked.append(url), real(url))[1])
    HeldOut(lists(en=[["a dog"], ["a cat", "cat"]], de=[["ein Hund"], ["Katze"]]), "auto", TOKENIZER)
    assert sorted(checked) == [str(tmp_path / "images" / name) for name in ("a.png", "b.png")]


def test_wrong_image_root(lists, tmp_path):
    config = lists(image_root=str(tmp_path / "elsewhere"), en=[["a dog"], ["a cat"]])
    expected = f"en.json, entry 0: the image {tmp_path}/elsewhere/a.png does not exist; correct evaluation.image_root"
    with pytest.raises(UserError, match=expected):
        HeldOut(config, "auto", TOKENIZER)


def test_one_image_is_not_there(lists, tmp_path):
    config = lists(en=[["a dog"], ["a cat"]])
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(UserError, match="en.json, entry 1: the image .*b.png does not exist"):
        HeldOut(config, "auto", TOKENIZER)


@pytest.mark.parametrize(("caption", "what"), [(" ?! ", "is empty; write one"), ("☃", "the tokenizer finds no token")])
def test_nothing_is_left_of_a_caption(lists, caption, what):
    config = lists(en=[["a dog"], ["a cat"]], de=[["Hund"], ["Katze", caption]])
    with pytest.raises(UserError, match=f"de.json, entry 1.* caption .*{what}.*remove it"):
        HeldOut(config, "auto", TOKENIZER)


def test_entries_of_one_picture_keep_their_own_places(lists, tmp_path):
    config = lists(en=[["a dog"], ["a cat"]])
    entries = [
        {"image": "a.png", "caption": "a dog"},
        {"image": "a.png", "caption": "dog"},
        {"image": "b.png", "caption": "a cat"},
    ]
    written = Path(config.files["en"])
    written.write_text(json.dumps([*entries, {"image": "a.png", "caption": "☃"}]))
    with pytest.raises(UserError, match="en.json, entry 3, caption '☃'"):
        HeldOut(config, "auto", TOKENIZER)
    written.write_text(json.dumps(entries))
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(UserError, match="en.json, entry 2: the image .*b.png does not exist"):
        HeldOut(config, "auto", TOKENIZER)
