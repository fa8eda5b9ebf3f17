"""What a config needs before it runs: data files, and shared memory for loader processes."""

from pathlib import Path

import pytest

from cclm.config.files import load_config
from cclm.config.finetune import FinetuneConfig
from cclm.config.pretrain import PretrainConfig
from cclm.data.batches.shared_images import SharedImages
from cclm.errors import UserError
from cclm.training.preflight import check_inputs, shared_memory_needed

CONFIGS = Path(__file__).parents[3] / "configs"


def pretraining(*overrides: str) -> PretrainConfig:
    config = load_config(CONFIGS / "demo/pretrain.yaml", overrides)
    assert isinstance(config, PretrainConfig)
    return config


def test_shared_memory_is_what_the_loader_allocates() -> None:
    """A source's buffers for one process; sources without loader processes, and texts, need none."""
    config = pretraining(
        "data.images.batch_size=64", "data.images.num_workers=2", "data.regions=null", "data.images_mono=null",
        "data.texts.num_workers=2",
    )  # fmt: skip
    side = config.model.vision.image_size
    buffers = SharedImages(2, 16, side)
    assert shared_memory_needed(config, processes=2) == buffers._pixels.numel()
    assert shared_memory_needed(config, processes=4) == buffers._pixels.numel() // 2
    assert (
        shared_memory_needed(pretraining("data.regions=null", "data.images_mono=null", "data.images.num_workers=0"), 1)
        == 0
    )


def test_shared_memory_of_fine_tuning() -> None:
    config = load_config(CONFIGS / "cclm-base-ft/NLVR.yaml", ["training.batch_size=64", "training.num_workers=3"])
    assert isinstance(config, FinetuneConfig)
    side = config.model.vision.image_size
    assert shared_memory_needed(config, processes=4) == 3 * 2 * (64 // 4) * 2 * side * side * 3


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.images\.files: nowhere does not exist; "):
        others = [f"data.{kind}=null" for kind in ("regions", "images_mono", "texts")]
        check_inputs(pretraining("data.images.files=[nowhere]", *others), ["training"])
    config = load_config(CONFIGS / "cclm-base-ft/XVNLI.yaml", ["data.train_files=[nowhere.jsonl]"])
    with pytest.raises(UserError, match="^the annotation file nowhere.jsonl does not exist; "):
        check_inputs(config, ["training"])


def test_only_what_the_run_reads_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("{}\n")
    tests = [f"data.test_files.{language}={tmp_path}/test.jsonl" for language in ("ar", "en", "es", "fr", "ru")]
    config = load_config(CONFIGS / "cclm-base-ft/XVNLI.yaml", [*tests, "data.train_files=[nowhere.jsonl]"])
    check_inputs(config, ["test"])


def test_a_few_shot_config_leaves_files_open() -> None:
    config = load_config(CONFIGS / "cclm-base-ft/XVNLI_fewshot.yaml")
    check_inputs(config, ["training"])
