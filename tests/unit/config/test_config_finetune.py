"""Fine-tuning settings in our own schema, one small file a task."""

from pathlib import Path

import pytest

from cclm.config.files import CONFIGS, load_config, to_yaml
from cclm.config.finetune import FINETUNE_CONFIGS
from cclm.errors import UserError

BASE = Path(__file__).parents[3] / "configs/model/laptop.yaml"

FILES = """\
data:
  train_files: [train.json]
  validation_files: {en: val.json}
  test_files: {en: test.json, de: [test.de.json, more.de.json]}
"""

TASKS = {
    "retrieval": FILES,
    "classification": FILES + "  image_root: images\n",
    "answering": FILES
    + "  answer_list: answers.json\nmodel: {text: {num_layers: 6, num_text_layers: 3}}\ndecoder_layers: 3\n",
    "reasoning": FILES,
    "text_assignment": "data: {images: {files: [a], batch_size: 8}}\n",
}


def write(folder: Path, task: str, more: str = "") -> Path:
    path = folder / f"{task}.yaml"
    path.write_text(f"base: {BASE}\ntask: {task}\n{TASKS[task]}{more}")
    return path


def complaint(folder: Path, task: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(write(folder, task), overrides)
    return str(caught.value)


def test_every_task_is_tried() -> None:
    assert set(TASKS) == set(FINETUNE_CONFIGS) == set(CONFIGS) - {"pretrain"}


@pytest.mark.parametrize("task", TASKS)
def test_a_small_config_of_each_task(tmp_path: Path, task: str) -> None:
    config = load_config(write(tmp_path, task))
    assert type(config) is FINETUNE_CONFIGS[task]
    assert config.task == task
    assert config.schedule.warmup_fraction == 0.1 and config.optimizer.clip_grad_norm is None
    printed = tmp_path / "printed.yaml"
    printed.write_text(to_yaml(config))
    assert load_config(printed) == config


def test_published_defaults_differ_where_they_do(tmp_path: Path) -> None:
    epochs = {task: load_config(write(tmp_path, task)).training.epochs for task in TASKS}
    assert epochs == {
        "retrieval": 10,
        "classification": 10,
        "answering": 5,
        "reasoning": 10,
        "text_assignment": 2,
    }


def test_one_name_is_a_list_of_one(tmp_path: Path) -> None:
    data = load_config(write(tmp_path, "retrieval"), ["data.train_files=a.json"]).data
    assert data.train_files == ("a.json",)
    assert data.test_files == {"en": ("test.json",), "de": ("test.de.json", "more.de.json")}


def test_few_shot_files_need_no_tests(tmp_path: Path) -> None:
    path = write(tmp_path, "classification")
    few = ["data.train_files='{language}/train_{shots}.jsonl'", "data.validation_files={'{language}': v.jsonl}"]
    assert load_config(path, few).data.few_shot
    assert not load_config(path).data.few_shot


@pytest.mark.parametrize(
    ("task", "override", "sentence"),
    [
        ("retrieval", "data.test_files.de=3", "data.test_files.de must be a list, but it is 3"),
        ("retrieval", "data.test_files.de=[]", "language de has an empty list of files"),
        ("retrieval", "data.test_files.de=[1]", "data.test_files.de[0] must be text, but it is 1"),
        ("retrieval", "data.format=xflickrco", "image_roots belongs to format xflickrco"),
        ("retrieval", "data.image_roots={coco: a, flickr30k: b}", "image_roots belongs to format xflickrco"),
        ("retrieval", "data.translated_test_files.sw=a", "has languages that test_files lacks: sw"),
        ("retrieval", "data.text.max_tokens=65", "max_tokens 65 of data exceeds model.text.max_positions = 64"),
        ("text_assignment", "data.images.text.max_tokens=65", "max_tokens 65 of data exceeds"),
        ("retrieval", "evaluation.k_test=5", "evaluation.k_test is not a known setting"),
        ("retrieval", "training.first_validaton=1", "did you mean training.first_validation?"),
        ("classification", "data.answer_list=a", "data.answer_list is not a known setting"),
        ("answering", "decoder_layers=4", "decoder_layers is 4, but the decoder starts as the fusion layers"),
        ("answering", "evaluation.candidates=0", "evaluation.candidates must be greater than 0"),
    ],
)
def test_a_wrong_setting_gives_a_sentence(tmp_path: Path, task: str, override: str, sentence: str) -> None:
    assert sentence in complaint(tmp_path, task, override)


def test_image_roots_name_both_places(tmp_path: Path) -> None:
    both = ["data.format=xflickrco", "data.image_roots={coco: a, flickr30k: b}"]
    assert load_config(write(tmp_path, "retrieval"), both).data.image_roots == {"coco": "a", "flickr30k": "b"}
    assert "must name both" in complaint(tmp_path, "retrieval", both[0], "data.image_roots={coco: a}")
    assert "did you mean coco?" in complaint(tmp_path, "retrieval", both[0], "data.image_roots={coc: a}")
