"""A tiny demo world: tree, formats, determinism, held-out combinations in the written files, refusals."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import demo_reading as reading
import pytest
from PIL import Image

from cclm.config.files import load_config
from cclm.data.annotations.annotation_sets import FewShot
from cclm.data.annotations.missing import missing_images
from cclm.data.annotations.read import AnnotatedConfig, languages_of, read_evaluation, read_training
from cclm.data.cleaning import clean_caption, clean_question
from cclm.data.examples.tokenizer import load_tokenizer
from cclm.demo.languages import LANGUAGES
from cclm.demo.scenes import is_held_out
from cclm.demo.tokenizer_training import train_tokenizer
from cclm.demo.world import TOKENIZER_FOLDER, DemoSize, _replace, make_demo_world
from cclm.errors import UserError
from tests.interrupts import obey_interrupts

ROOT = Path(__file__).resolve().parents[3]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def parts(world: Path, folder: str) -> list[dict]:
    assert (world / folder / "_SUCCESS").read_bytes() == b""
    return [record for path in sorted((world / folder).glob("part-*.jsonl")) for record in lines(path)]


def digests(world: Path) -> dict[str, str]:
    return {
        str(path.relative_to(world)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(world.rglob("*"))
        if path.is_file()
    }


def test_same_seed_gives_the_same_bytes_in_another_process(world: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cclm.demo.world import *; "
        "make_demo_world(Path(sys.argv[1]), size=DemoSize.TINY, as_published=True)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "again")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert digests(tmp_path / "again") == digests(world)
    assert "drawing" not in done.stderr  # no progress bar without a terminal


def test_another_seed_gives_other_pictures_and_replaces_the_world(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "world"
    make_demo_world(out, size=DemoSize.TINY, progress=False)
    make_demo_world(out, seed=1, size=DemoSize.TINY, progress=False)
    assert json.loads((out / "demo.json").read_text())["seed"] == 1
    first, second = digests(world), digests(out)
    assert first["images/heldout/00000.jpg"] != second["images/heldout/00000.jpg"]
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_existing_world_is_left_alone(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (world / "demo.json").stat().st_mtime_ns
    counts = make_demo_world(world, size=DemoSize.TINY, as_published=True, progress=False)
    assert (world / "demo.json").stat().st_mtime_ns == before
    assert counts == json.loads((world / "demo.json").read_text())["counts"]
    assert "already holds this demo world" in capsys.readouterr().err


def test_a_foreign_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty and no demo world"):
        make_demo_world(tmp_path, size=DemoSize.TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "demo.json").write_text("[1]")
    with pytest.raises(UserError, match="no demo world"):
        make_demo_world(tmp_path, size=DemoSize.TINY)
    with pytest.raises(UserError, match="not a folder"):
        make_demo_world(tmp_path / "thesis.txt", size=DemoSize.TINY)


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from cclm.demo.world import *; make_demo_world(Path(sys.argv[1]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "world")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=obey_interrupts,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not any(tmp_path.iterdir()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=300)[1]
    assert list(tmp_path.iterdir()) == []


def test_sizes_too_small_are_refused() -> None:
    with pytest.raises(UserError, match="image_side"):
        DemoSize(image_side=8)


def test_pretraining_records(world: Path) -> None:
    size = DemoSize.TINY
    image_text = parts(world, "data/pretrain/image_text")
    assert len(image_text) == size.image_text
    for record in image_text:
        assert record.keys() == {"binary", "caption"} and "en" in record["caption"]
        assert 3 <= len(record["caption"]) <= 6 and record["caption"].keys() <= LANGUAGES.keys()
        image = Image.open(io.BytesIO(base64.b64decode(record["binary"], validate=True)))
        assert image.format == "JPEG" and image.size == (size.image_side,) * 2
    for record in parts(world, "data/pretrain/regions"):
        assert {"binary", "elems"} <= record.keys() <= {"binary", "elems", "caption"}
        for element in record["elems"]:
            x, y, width, height = element["bb"]
            assert 0 <= x < x + width <= size.image_side and 0 <= y < y + height <= size.image_side
            assert "en" in element["caption"]
            told = element["caption"]["en"] + " " + element.get("attributes", {}).get("en", "")
            assert [len(reading.found("en", told, fact)) for fact in range(4)] == [1, 1, 1, 0]
    assert {type(record["desc"]) for record in parts(world, "data/pretrain/image_text_mono")} == {str, list}
    texts = parts(world, "data/pretrain/parallel_text")
    assert len(texts) == size.parallel and all(record["source_text"] and record["target_text"] for record in texts)


def test_held_out_sets_caption_the_same_scenes_in_all_languages(world: Path) -> None:
    for prefix, number in (("", DemoSize.TINY.held_out_test), ("val.", DemoSize.TINY.held_out_validation)):
        scenes = []
        for code in LANGUAGES:
            entries = json.loads((world / f"data/heldout/{prefix}{code}.json").read_text(encoding="utf-8"))
            assert [entry["image_id"] for entry in entries] == list(range(number))
            assert all((world / "images" / entry["image"]).is_file() for entry in entries)
            scenes.append([reading.things(code, entry["caption"][0]) for entry in entries])
        assert all(each == scenes[0] for each in scenes)
        assert len({frozenset(scene) for scene in scenes[0]}) == number
        assert all(any(is_held_out(s, c, p) for s, c, _, p in scene) for scene in scenes[0])


def english_training_texts(world: Path) -> list[str]:
    texts = [r["caption"]["en"] for r in parts(world, "data/pretrain/image_text")]
    texts += [r["caption"]["en"] for r in parts(world, "data/pretrain/regions") if "caption" in r]
    lists = ["multi30k/train.en", "mscoco/en.train"]
    for name in lists:
        texts += [e["caption"] for e in json.loads((world / f"data/finetune/{name}.json").read_text(encoding="utf-8"))]
    iglue = world / "iglue/datasets"
    for name in ("flickr30k/annotations/train_ann", "xFlickrCO/annotations/en/train_100"):
        texts += [text for record in lines(iglue / f"{name}.jsonl") for text in record["sentences"]]
    for name in ("train", "train_48"):
        texts += [record["sentence1"] for record in lines(iglue / f"XVNLI/annotations/en/{name}.jsonl")]
    return texts + [r["caption_reference_description"] for r in lines(iglue / "wit/annotations/train_en.jsonl")]


def test_no_training_text_names_a_held_out_combination(world: Path) -> None:
    texts = english_training_texts(world)
    checked = 0
    for text in texts:
        shapes, colours, places = (reading.found("en", text, fact) for fact in (0, 1, 3))
        if places:
            checked += 1
            assert not any(is_held_out(*triple) for triple in zip(shapes, colours, places, strict=True)), text
    assert checked > 100


def test_every_test_picture_of_the_tasks_shows_a_held_out_combination(world: Path) -> None:
    iglue = world / "iglue/datasets"
    texts = [record["sentence1"] for record in lines(iglue / "XVNLI/annotations/en/test.jsonl")]
    for name in ("xFlickrCO/annotations/en/test", "flickr30k/annotations/valid_ann"):
        texts += [record["sentences"][0] for record in lines(iglue / f"{name}.jsonl")]
    texts += [record["caption_reference_description"] for record in lines(iglue / "wit/annotations/test_en.jsonl")]
    for name in ("multi30k/test_2016_flickr.en", "mscoco/en.1k_test"):
        entries = json.loads((world / f"data/finetune/{name}.json").read_text(encoding="utf-8"))
        texts += [entry["caption"][0] for entry in entries]
    for text in texts:
        assert any(is_held_out(shape, colour, place) for shape, colour, _, place in reading.things("en", text)), text


def test_tokenizer_is_read_offline_and_knows_every_word(world: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world / TOKENIZER_FOLDER, local_files_only=True)
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>"]) == [0, 1, 2, 3]
    assert tokenizer.mask_token_id == len(tokenizer) - 1
    assert tokenizer("a red star")["input_ids"][0] == 0 and tokenizer("a red star")["input_ids"][-1] == 2
    assert "<mask>" in tokenizer.tokenize("a <mask> star")
    config = json.loads((world / TOKENIZER_FOLDER / "config.json").read_text())
    assert config["vocab_size"] == len(tokenizer) and config["model_type"] == "xlm-roberta"
    for code in LANGUAGES:
        for entry in json.loads((world / f"data/heldout/{code}.json").read_text(encoding="utf-8")):
            text = clean_caption(entry["caption"][0], 30)
            ids = tokenizer(text)["input_ids"]
            assert 3 not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("，", ",")


def test_configs_as_published_are_of_a_small_model_and_name_what_is_there(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    paths = sorted((world / "configs").rglob("*.yaml"))
    shipped = [path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name in ("configs", "cclm-base-ft")]
    assert [path.relative_to(world) for path in paths] == sorted(path.relative_to(ROOT) for path in shipped)
    for path in paths:
        config = load_config(path)
        assert config.model.vision.image_size == DemoSize.TINY.image_side and config.model.text.num_layers == 3
        assert str(ROOT) not in path.read_text()
        if isinstance(config, AnnotatedConfig):
            shots = FewShot("id" if "NLVR" in path.name else "de") if config.data.few_shot else None
            if shots is not None and any("{shots}" in name for name in config.data.train_files):
                shots = FewShot("fr" if "XVNLI" in path.name else "tr", "10")
            missing_images(read_training(config, shots), "error")
            for split in ("validation", "test", "translated_test"):
                for language in languages_of(config, split, shots):
                    found = read_evaluation(config, split, language, shots)
                    assert not found.dropped
                    missing_images(found, "error")
            assert len(languages_of(config, "test", shots)) >= 4 or config.data.few_shot or "_ft" in path.name


def test_tokenizer_as_published_knows_the_further_languages(world: Path) -> None:
    tokenizer = load_tokenizer(str(world / "data/xlm-roberta-large"))
    for entry in json.loads((world / "data/finetune/multi30k/val.cs.json").read_text(encoding="utf-8")):
        assert 3 not in tokenizer.ids(clean_caption(entry["caption"][0], 30), 80)
    for name, key in (
        ("marvl/zero_shot/annotations/marvl-ta", "caption"),
        ("wit/annotations/test_el", "caption_refer"),
        ("wit/annotations/test_vi", "caption_refer"),
        ("marvl/zero_shot/annotations/marvl-sw", "caption"),
    ):
        for record in lines(world / f"iglue/datasets/{name}.jsonl"):
            text = next(value for field, value in record.items() if field.startswith(key))
            assert 3 not in tokenizer.ids(clean_caption(text, 80), 80), text
    for code in ("bn", "ko"):
        path = world / f"iglue/datasets/xGQA/annotations/few_shot/{code}/test.json"
        for record in json.loads(path.read_text(encoding="utf-8")).values():
            assert 3 not in tokenizer.ids(clean_question(record["question"], 50), 40), record["question"]


def test_preview_and_readme(world: Path) -> None:
    page = (world / "preview.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == min(12, DemoSize.TINY.held_out_test)
    assert page.count('lang="ar" dir="auto"') == page.count("<figure>")
    assert "data/pretrain/" in (world / "README.md").read_text(encoding="utf-8")


def test_the_folder_that_a_shell_stands_in_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    made = tmp_path / "made"
    (made / "data").mkdir(parents=True)
    (made / "demo.json").write_text("{}")
    before = here.stat().st_ino
    _replace(here, made)
    assert Path("demo.json").is_file() and Path("data").is_dir() and here.stat().st_ino == before


def test_the_vocabulary_fits_the_laptop_model_however_few_sentences_there_are() -> None:
    """Few and varied sentences leave more pieces than many alike ones; the model's vocabulary is fixed at 1024."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=3)) for _ in range(3000)]
    tokenizer = train_tokenizer({"en": [" ".join(rng.choices(words, k=8)) for _ in range(1500)]})
    assert 900 < tokenizer.get_vocab_size() <= 1024
    assert "<unk>" not in tokenizer.encode("abcdefghijklmnop 0123456789").tokens


def test_demo_world_where_none_can_be(tmp_path):
    (tmp_path / "file").touch()
    for out in (Path("/proc/zz"), tmp_path / "file" / "world"):
        with pytest.raises(UserError, match=f"^the demo world {out} cannot be written .*; choose another folder"):
            make_demo_world(out, size=DemoSize.TINY, progress=False)
