"""The sink that writes event files for TensorBoard."""

import errno
import os
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from cclm.cli import main
from cclm.events import Evaluated, Event, Journal, Notice
from cclm.metrics.tensorboard_files import TensorBoard

CONFIGS = Path(__file__).parents[3] / "configs"


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """tag -> (step, value)"""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(folder))
    curves.Reload()
    return {tag: [(each.step, each.value) for each in curves.Scalars(tag)] for tag in curves.Tags()["scalars"]}


class Recorder(list[Event]):
    """A sink that keeps the events."""

    def handle(self, event: Event) -> None:
        self.append(event)


def write(folder: Path, step: int | None, *events: Event) -> None:
    sink = TensorBoard(folder, step, Journal())
    for event in events:
        sink.handle(event)
    sink.close()


def test_scores_have_their_means_over_languages(tmp_path: Path) -> None:
    scores = {"en": {"accuracy": 50.0}, "de": {"accuracy": 30.0}, "zh": {"accuracy": 10.0}}
    write(tmp_path, 0, Evaluated("test", 7, scores))
    assert scalars(tmp_path) == {
        "test/en/accuracy": [(7, 50.0)], "test/de/accuracy": [(7, 30.0)], "test/zh/accuracy": [(7, 10.0)],
        "test/mean/accuracy": [(7, 30.0)], "test/mean_without_en/accuracy": [(7, 20.0)],
    }  # fmt: skip


@pytest.mark.parametrize(("step", "expected"), [(None, [1, 5, 3]), (2, [1, 3])])
def test_a_run_that_goes_on_drops_later_steps_and_an_evaluation_drops_nothing(
    step: int | None, expected: list[int], tmp_path: Path
) -> None:
    first, *later = (Evaluated("test", step, {"en": {"accuracy": 1.0}}) for step in (1, 5, 3))
    write(tmp_path, 0, first, later[0])
    write(tmp_path, step, later[1])
    assert [step for step, _ in scalars(tmp_path)["test/en/accuracy"]] == expected


def test_a_folder_that_cannot_be_made_is_a_notice(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    notices = Recorder()
    sink = TensorBoard(tmp_path / "tensorboard", 0, Journal([notices]))
    sink.handle(Evaluated("test", 1, {"en": {"accuracy": 1.0}}))
    sink.close()
    assert notices == [Notice("TensorBoard's files take no more (File exists); no curves follow")]


def test_a_disk_that_takes_no_more_at_the_end_is_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(writer: SummaryWriter) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    notices = Recorder()
    sink = TensorBoard(tmp_path, 0, Journal([notices]))
    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "close", refuse)
        sink.close()
    assert notices == [Notice("TensorBoard's files take no more (No space left on device); no curves follow")]


@pytest.mark.parametrize("command", ["pretrain", "finetune", "evaluate --checkpoint x"])
def test_without_the_package_nothing_is_begun(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cclm.metrics.tensorboard_files.find_spec", lambda name: None)
    monkeypatch.setattr("cclm.training.run_folder.no_trace_if_refused", pytest.fail)
    config = "Pretrain_4m.yaml" if command == "pretrain" else "cclm-base-ft/XVNLI.yaml"
    name, *options = command.split()
    words = [name, str(CONFIGS / config), *options, "--tensorboard", f"output_dir={tmp_path}/run"]
    assert main.run(words) == 2
    assert "needs the package tensorboard: pip install 'cclm[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
