"""Which checkpoints a run goes on from: those of its own identity, in whatever form they hold it."""

from typing import Any

import pytest

from cclm.config.pretrain import PretrainConfig
from cclm.errors import UserError
from cclm.training.identity import (
    differences,
    finetuning_identity,
    pretraining_identity,
    refuse_another_run,
    text_assignment_identity,
)
from cclm.training.options import FinetuneOptions
from cclm.training.resume import Start
from tests.unit.training.small_configs import config_of

RECORDS = {"images": 100}
LAYOUTS = {"images": "0a"}


@pytest.fixture
def values() -> dict[str, Any]:
    """A pre-training config as its checkpoints hold it."""
    model = config_of("classification").model
    data = {"images": {"files": ["f"], "batch_size": 4}}
    return PretrainConfig.model_validate({"model": model, "data": data}).model_dump(mode="json")


def test_pretraining_is_compared_with_what_its_checkpoints_hold(values: dict[str, Any]) -> None:
    state = {"config": values, "records": RECORDS, "layouts": LAYOUTS}
    assert differences(state, pretraining_identity(values, RECORDS, LAYOUTS)) == []
    now = pretraining_identity(values | {"seed": 8}, {"images": 90}, {"images": "ff"})
    assert differences(state, now) == [  # with another number of records, how files are cut says nothing new
        "number of records of data.images was 100 and is 90",
        f"seed was {values['seed']} and is 8",
    ]
    [difference] = differences(state, pretraining_identity(values, RECORDS, {"images": "ff"}))
    assert difference == "checksum of how the files of data.images are cut was 0a and is ff"


def test_settings_that_a_run_may_change_are_no_part_of_it(values: dict[str, Any]) -> None:
    model = values["model"]
    free = values | {"model": model | {"text": model["text"] | {"dropout": 0.5, "weights": "w.bin"}}}
    assert pretraining_identity(free, RECORDS, LAYOUTS) == pretraining_identity(values, RECORDS, LAYOUTS)


def test_a_checkpoint_of_another_task_is_refused(values: dict[str, Any]) -> None:
    pretraining = pretraining_identity(values, RECORDS, LAYOUTS)
    config = config_of("classification")
    finetuning = finetuning_identity(config, FinetuneOptions(), 8)
    assert differences({"identity": finetuning}, finetuning) == []
    assert differences({"identity": {**finetuning, "--fewshot": "ar,48"}}, finetuning) == [
        "--fewshot was ar,48 and is None"
    ]
    assert "task was pretrain and is classification" in differences({"config": values, "records": RECORDS}, finetuning)
    assert "task was classification and is pretrain" in differences({"identity": finetuning}, pretraining)
    older = {"config": config.model_dump(mode="json")}  # fine-tuned before checkpoints held an identity
    assert "task was classification and is pretrain" in differences(older, pretraining)
    start = Start(120, {"identity": finetuning}, "output/y/step-00000120", None)
    advice = "Go back to its settings, choose another output_dir, or start anew with --resume never"
    with pytest.raises(UserError, match=rf"^output/y/step-00000120 is of another run: .* {advice}$"):
        refuse_another_run(start, pretraining)
    refuse_another_run(None, pretraining)


def test_what_checkpoints_of_finetuning_keep_has_the_names_of_older_ones() -> None:
    sizes = [f"model.{part}.{name}" for part, name in (("vision", "embed_dim"), ("text", "hidden_size"))]
    finetuning = finetuning_identity(config_of("classification"), FinetuneOptions(), 8)
    rest = {name for name in finetuning if not name.startswith("model.")}
    assert rest == {"task", "seed", "training.batch_size", "number of training examples", "--fewshot"}
    assignment = text_assignment_identity(config_of("text_assignment"), 100, "0a")
    rest = {name: value for name, value in assignment.items() if not name.startswith("model.")}
    assert rest == {
        "task": "text_assignment",
        "seed": 42,
        "data.images.batch_size": 2,
        "records": 100,
        "how the files of data.images are cut": "0a",
    }
    assert all(size in finetuning and size in assignment for size in sizes)
