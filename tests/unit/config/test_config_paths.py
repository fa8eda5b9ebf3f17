"""`~` in the paths of settings and of config files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cclm.config.files import load_config
from cclm.config.paths import expand_home

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


def texts_of(value: Any) -> list[str]:
    """All texts in a tree of settings."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts_of(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts_of(item)]
    return [value] if isinstance(value, str) else []


def test_only_a_tilde_at_the_start_is_the_home(home: str) -> None:
    assert expand_home("~") == home and expand_home("~/x") == f"{home}/x"
    for path in ("", "x/~", "./~/x", "s3://bucket/~/x", "hdfs://~/x", "~nobody-has-this-name/x"):
        assert expand_home(path) == path


@pytest.mark.parametrize(
    "overrides",
    [
        ["output_dir=~/o", "output_hdfs=~/p", "checkpoints.scratch=~/s"],
        ["model.weights=~/w", "model.vision.weights=~/v", "model.text.weights=~/t", "model.text.tokenizer=~/k"],
        ["data.images.files=[~/a, ~/b]", "data.images.image_root=~/i", "data.index_dir=~/x"],
        ["data.regions.files=[~/r]", "data.images_mono.files=[~/m]", "data.texts.files=[~/p]"],
        ["evaluation.files={en: ~/e.json}", "evaluation.image_root=~/i"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_path_of_pretraining(home: str, overrides: list[str]) -> None:
    texts = texts_of(load_config(CONFIGS / "demo/fusion.yaml", overrides).model_dump())
    assert sum(text.startswith(f"{home}/") for text in texts) == sum(override.count("~") for override in overrides)
    assert not any("~" in text for text in texts)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("xvnli", ["output_dir=~/o", "data.train_files=~/a.jsonl", "data.validation_files={en: [~/b.jsonl]}"]),
        ("xvnli", ["data.test_files.en=~/c", "data.translated_test_files.de=~/d", "data.image_root=~/i"]),
        ("xflickrco", ["data.image_roots={flickr30k: ~/f, coco: ~/c}"]),
        ("wit", ["data.image_tables=[~/t]", "data.index_dir=~/x"]),
        ("nlvr", ["data.marvl_root=~/m", "data.marvl_few_shot_root=~/n"]),
        ("gqa", ["data.answer_list=~/a.json"]),
        ("text_assignment", ["data.images.files=[~/a]", "data.index_dir=~/x"]),
    ],
)
def test_every_path_of_fine_tuning(home: str, name: str, overrides: list[str]) -> None:
    texts = texts_of(load_config(CONFIGS / f"demo/{name}.yaml", overrides).model_dump())
    assert sum(text.startswith(f"{home}/") for text in texts) == sum(override.count("~") for override in overrides)
    assert not any("~" in text for text in texts)


def test_config_files_and_their_bases(home: str) -> None:
    (Path(home) / "base.yaml").write_text(f"base: {CONFIGS / 'demo/pretrain.yaml'}\nseed: 7\n")
    (Path(home) / "top.yaml").write_text("base: ~/base.yaml\n")
    assert load_config("~/top.yaml").seed == 7
