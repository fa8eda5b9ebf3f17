"""The sink that writes event files for TensorBoard."""

from pathlib import Path

import pytest

from cclm.events import Evaluated, Event, Journal
from cclm.metrics.tensorboard import TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """tag -> (step, value)"""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(folder))
    curves.Reload()
    return {tag: [(each.step, each.value) for each in curves.Scalars(tag)] for tag in curves.Tags()["scalars"]}


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
