"""`--tensorboard`: the curves are those of metrics.jsonl."""

import pytest

from .conftest import metrics, run

pytestmark = pytest.mark.slow


def test_curves_are_those_of_the_log_and_a_run_that_goes_on_adds_to_them(config, held_out, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = config(evaluation=held_out("en"), **{"training.max_steps": 6, "training.save_every": None})
    run("pretrain", path, "--tensorboard")
    run("pretrain", path, "--tensorboard", "training.max_steps=8")

    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    curves.Reload()
    lines = metrics(tmp_path / "run")
    losses = {line["step"]: line["losses"] for line in lines if "losses" in line}
    drawn = curves.Scalars("loss/images/itc")
    assert [point.step for point in drawn] == [step for step in losses if "images/loss_itc" in losses[step]]
    for point in drawn:
        assert point.value == pytest.approx(losses[point.step]["images/loss_itc"])
    scores = {line["step"]: line["retrieval"]["en"]["r_mean"] for line in lines if "retrieval" in line}
    assert {point.step: point.value for point in curves.Scalars("retrieval/en/r_mean")} == pytest.approx(scores)
