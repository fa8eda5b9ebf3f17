"""What is found out before a model is built: folders that take no files, held-out lists that cannot be measured."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from cclm import storage
from cclm.checkpoints.published import write_published_file
from cclm.cli.convert import convert
from cclm.config.pretrain import EvaluationConfig
from cclm.data.examples.tokenizer import Tokenizer
from cclm.demo.world import DemoSize, make_demo_world
from cclm.errors import UserError
from cclm.training import run_files
from cclm.training.held_out import HeldOut
from cclm.training.preflight import check_writable
from tests.checkpoint_files import make_trained, save_checkpoint


class Letters:
    """The smallest tokenizer: a token a letter; what is no letter is no token."""

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> list[SimpleNamespace]:
        assert not add_special_tokens
        return [SimpleNamespace(ids=[4 + ord(letter) % 90 for letter in text if letter.isalpha()]) for text in texts]

    def id_to_token(self, id: int) -> str:
        return f"\u2581{id}"


TOKENIZER = Tokenizer("letters", Letters(), 0, 1, pad=2, mask=3, vocab_size=100, special=frozenset(range(4)))


# Folders: tests may run as root, who may write anywhere; /proc takes no files from anybody.


def test_a_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "b", "output_dir")
    check_writable(tmp_path / "a" / "b", "output_dir")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("below", ["", "run", "run/one"])
def test_a_file_is_no_folder(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"^output_dir .*/file.* cannot be a folder, since {tmp_path}/file is a file"):
        check_writable(tmp_path / "file" / below, "output_dir")


@pytest.mark.parametrize("folder", ["/proc", "/proc/zz", "/proc/zz/run"])
def test_a_folder_that_takes_no_files(folder):
    with pytest.raises(
        UserError, match=rf"^output_dir {folder} cannot be written to \(.+\); make it writable or choose"
    ):
        check_writable(Path(folder), "output_dir")


@pytest.mark.parametrize(
    ("out", "sentence"),
    [("/proc/out.th", "output folder /proc cannot be written to"), ("/nowhere/out.th", "/nowhere .* does not exist")],
)
def test_convert_looks_at_its_output_first(tmp_path, out, sentence):
    with pytest.raises(UserError, match=sentence):
        convert(argparse.Namespace(checkpoint=str(tmp_path), out=out))


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({}, "does not tell its config"),
        ({"config": {"task": "answering"}}, "is of task answering; only checkpoints of pre-training"),
        ({"config": {"seed": "x"}}, "the config in .* cannot be used"),
    ],
)
def test_convert_takes_pretraining_only(tmp_path, state, sentence):
    path = save_checkpoint(tmp_path, 5, *make_trained(0), state)
    with pytest.raises(UserError, match=sentence):
        convert(argparse.Namespace(checkpoint=str(path), out=str(tmp_path / "out.th")))


def test_a_full_disk_keeps_no_half_of_a_published_file(tmp_path):
    (tmp_path / "out.th.tmp").symlink_to("/dev/full")
    with pytest.raises((OSError, RuntimeError)):
        write_published_file(tmp_path / "out.th", {"weight": torch.zeros(3)}, {})
    assert [*tmp_path.iterdir()] == []


def test_convert_under_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"since {tmp_path}/file is a file"):
        convert(argparse.Namespace(checkpoint=str(tmp_path), out=str(tmp_path / "file" / "out.th")))


def test_demo_world_where_none_can_be(tmp_path):
    (tmp_path / "file").touch()
    for out in (Path("/proc/zz"), tmp_path / "file" / "world"):
        with pytest.raises(UserError, match=f"^the demo world {out} cannot be written .*; choose another folder"):
            make_demo_world(out, size=DemoSize.TINY, progress=False)


def test_runs_set_aside_within_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(run_files.time, "strftime", lambda _: "earlier-20260101-000000")
    for content in "123":
        (tmp_path / "metrics.jsonl").write_text(content)
        run_files.set_aside(str(tmp_path))
    names = ["earlier-20260101-000000", "earlier-20260101-000000-2", "earlier-20260101-000000-3"]
    assert [(tmp_path / name / "metrics.jsonl").read_text() for name in names] == ["1", "2", "3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_runs_set_aside_in_a_store_within_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(run_files.time, "strftime", lambda _: "earlier")
    place = f"memory://{tmp_path.name}"
    files = {"earlier-2": "metrics.jsonl", "earlier-3": "log.txt"}
    manifest = f"{place}/step-00000005/manifest"
    storage.write_atomic(f"{manifest}.json", b"first")
    run_files.set_aside(place)  # leaves no folder, only the manifest's name
    for name in files.values():
        storage.write_atomic(f"{place}/{name}", name.encode())
        storage.write_atomic(f"{manifest}.json", name.encode())
        run_files.set_aside(place)
    assert storage.read_bytes(f"{manifest}-earlier.json") == b"first"
    for aside, name in files.items():
        assert storage.read_bytes(f"{place}/{aside}/{name}") == name.encode()
        assert storage.read_bytes(f"{manifest}-{aside}.json") == name.encode()


# Held-out lists.


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
    asked = []
    real = storage.is_file
    monkeypatch.setattr(storage, "is_file", lambda url: (asked.append(url), real(url))[1])
    HeldOut(lists(en=[["a dog"], ["a cat", "cat"]], de=[["ein Hund"], ["Katze"]]), "auto", TOKENIZER)
    assert sorted(asked) == [str(tmp_path / "images" / name) for name in ("a.png", "b.png")]


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
