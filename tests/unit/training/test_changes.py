"""A run that goes on with other settings, or with other initial weights, says so; a refused one leaves no folder."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from cclm import storage
from cclm.cli import main as cli
from cclm.config.finetune import FinetuneConfig
from cclm.config.pretrain import PretrainConfig
from cclm.errors import UserError
from cclm.events import Journal
from cclm.metrics.sentences import sentence
from cclm.training import environment
from cclm.training.changes import changes, initial_weights, settings_of
from cclm.training.identity import refuse_another_run
from cclm.training.resume import Start
from cclm.training.run import Built, Recipe, RunContext, train
from cclm.training.run_folder import RUN, no_trace_if_refused
from cclm.training.saving import Saving
from tests.checkpoint_files import Output, make_trained
from tests.unit.training.small_configs import config_of


def changed(config: FinetuneConfig, **changes: Any) -> FinetuneConfig:
    """As `training__epochs=3`."""
    values = config.model_dump(mode="json")
    for name, value in changes.items():
        *parents, last = name.split("__")
        block = values
        for parent in parents:
            block = block[parent]
        block[last] = value
    return type(config).model_validate(values)


def start_of(state: dict[str, Any]) -> Start:
    return Start(120, state, "output/y/step-00000120", None)


def sentences(
    state: dict[str, Any], config: FinetuneConfig | PretrainConfig, checkpoint: str | None = None
) -> list[str]:
    return [sentence(event) or "" for event in changes(start_of(state), config, checkpoint)]


CONFIG = config_of("classification")
STATE = settings_of(CONFIG, None, "a.th")


def test_other_settings_are_named_with_both_values() -> None:
    now = changed(CONFIG, optimizer__lr=2e-5, training__epochs=3, data__augment__crop_scale=[0.1, 1.0])
    assert sentences(STATE, now) == [
        "going on from step 120 with other settings than it was saved with: "
        "optimizer.lr 3e-05 -> 2e-05; data.augment.crop_scale [0.5, 1.0] -> [0.1, 1.0]; training.epochs 10 -> 3"
    ]
    [line] = sentences(STATE, changed(CONFIG, data__train_files=["/long/" + "x" * 90], data__test_files={"de": "d"}))
    expected = 'data.train_files has changed; data.test_files.de null -> ["d"]; data.test_files.en ["t"] -> null'
    assert line.endswith(f": {expected}")


def test_nothing_is_said_of_the_same_settings_and_of_those_beside_the_point() -> None:
    assert sentences(STATE, CONFIG, "a.th") == sentences(STATE, CONFIG) == []
    now = changed(
        CONFIG, output_dir="o", output_hdfs="h", checkpoints__keep_last=9, training__num_workers=1,
        training__log_every=7, evaluation__batch_size=3,
    )  # fmt: skip
    assert sentences(STATE, now, "a.th/") == []
    assert list(changes(None, CONFIG, "b.th")) == []  # a run that begins


def test_checkpoints_of_older_versions_are_compared_in_what_they_tell() -> None:
    lacking = changed(CONFIG).model_dump(mode="json")
    del lacking["schedule"], lacking["training"]["precision"]
    assert sentences({"config": lacking}, CONFIG) == []
    [line] = sentences({"config": lacking | {"gone": 1}}, changed(CONFIG, optimizer__lr=1.0))
    assert line.endswith(": optimizer.lr 3e-05 -> 1.0")
    for state in ({}, {"config": {}}):
        assert sentences(state, CONFIG) == []
        refuse_another_run(start_of({}), {"task": "pretrain", "seed": 1})
    refuse_another_run(start_of({"identity": {"seed": 1}}), {"seed": 1})


def test_initial_weights_that_do_not_count_are_named_as_long_as_the_run_goes_on() -> None:
    sentence = "--checkpoint b.th is not used: the run goes on from output/y/step-00000120 (--resume never begins anew)"
    assert sentences(STATE, CONFIG, "b.th") == sentences({}, CONFIG, "b.th") == [sentence]
    assert initial_weights(start_of(STATE), CONFIG.model, "b.th") == {"--checkpoint": "a.th"}  # kept from save to save
    assert initial_weights(None, CONFIG.model, "b.th") == {"--checkpoint": "b.th"}
    whole = changed(CONFIG, model__weights="w.th")
    [line] = sentences(STATE, whole)
    assert line.startswith("model.weights w.th is not used")
    assert sentences({"config": whole.model_dump(mode="json")}, whole) == []
    [line] = sentences({"config": STATE["config"]}, changed(CONFIG, model__vision__weights="v.pth"))
    assert line.startswith("model.vision.weights v.pth is not used")


@pytest.mark.parametrize("command", ["pretrain", "finetune", "evaluate"])
def test_a_refused_command_leaves_no_folder(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "set_threads", lambda device: 1)  # this process goes on
    values = {"task": CONFIG.task, "data": CONFIG.data.model_dump(mode="json")}
    if command == "pretrain":
        values = {"task": command, "data": {"images": {"files": ["f"], "batch_size": 2}}}
    values |= {"model": CONFIG.model.model_dump(mode="json"), "output_dir": str(tmp_path / "run")}
    values["output_hdfs"] = str(tmp_path / "second")
    values["model"]["text"]["tokenizer"] = str(tmp_path / "no_tokenizer")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    options = ["--checkpoint", "c.th"] if command != "pretrain" else []
    assert cli.run([command, str(tmp_path / "c.yaml"), *options]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def refused_in(output: Output, *, save: bool = False) -> None:
    with pytest.raises(UserError, match="other task"), no_trace_if_refused(output.output_dir, output.output_hdfs):
        saving = Saving(output, Journal())
        saving.find_start("auto")
        if save:
            with saving:
                saving.save(5, *make_trained(0), {})
        raise UserError("other task")


def test_a_name_for_the_run_is_no_reason_to_keep_the_folder_but_a_checkpoint_is(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "near"), str(tmp_path / "far"))
    refused_in(output)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "near").mkdir()
    refused_in(output)
    assert [path.name for path in tmp_path.iterdir()] == ["near"]  # it was there before
    refused_in(Output(str(tmp_path / "saved")), save=True)
    assert (tmp_path / "saved" / "step-00000005").exists()


class RefusedRecipe(Recipe[nn.Module]):
    """A run whose initial weights do not fit."""

    def __init__(self, config: Output) -> None:
        self.config = config
        self.course = SimpleNamespace(identity={})

    def build(self, start: Start | None) -> Built[nn.Module]:
        raise UserError("these weights do not fit")


def test_a_refused_run_leaves_no_name_in_a_store(tmp_path: Path) -> None:
    """Unless it had one before: an earlier start may still be saving."""
    output = Output(f"memory://{tmp_path}/run")
    name = f"{output.output_dir}/{RUN}"
    for is_there_before in (False, True):
        if is_there_before:
            Saving(output, Journal()).find_start("auto")
        for resume in ("auto", "never") if not is_there_before else ("auto",):
            context = RunContext(torch.device("cpu"), Journal(), Saving(output, Journal()))
            with pytest.raises(UserError, match="do not fit"):
                train(RefusedRecipe(output), context, resume=resume, stop=None)
            assert storage.exists(name) == is_there_before
