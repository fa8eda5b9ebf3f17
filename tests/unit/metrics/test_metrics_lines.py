"""metrics.jsonl read back: what was written, and what is left out of a file that is not whole."""

import json
import math

import pytest

from cclm.events import Evaluated, Interval, Validated
from cclm.metrics.metrics_file import values_of
from cclm.metrics.metrics_lines import MEAN, MEAN_WITHOUT_EN, StepBack, read_lines


def interval(step: int, loss: float = 1.0, **changes: object) -> Interval:
    values = {
        "losses": {"images/loss_itc": loss, "texts/loss_mlm": 7.5}, "lr": 1e-4, "grad_norms": {"images": 2.5},
        "learnt": {"temperature": 0.07}, "images_per_second": 100.0, "texts_per_second": 200.0, "seconds": 0.5,
        "skipped": {"images": 3},
    }  # fmt: skip
    return Interval(step=step, total_steps=100, **{**values, **changes})


def text_of(*events) -> str:
    return "".join(json.dumps(values_of(event), ensure_ascii=False) + "\n" for event in events)


def test_an_interval_reads_as_it_was_written():
    event = interval(10)
    (line,) = read_lines(text_of(event).encode()).intervals
    names = ("step", "losses", "lr", "grad_norms", "learnt", "images_per_second", "texts_per_second", "seconds")
    assert all(getattr(line, name) == getattr(event, name) for name in (*names, "skipped"))


@pytest.mark.parametrize("split", ["retrieval", "validation", "test", "translated_test"])
def test_scores_of_every_split_read_as_they_were_written(split):
    scores = {"en": {"txt_r1": 1.0, "r_mean": 50.0}, "de": {"txt_r1": 2.0, "r_mean": 30.0}}
    event = Evaluated(split, 7, scores, {"en": 4, "de": 5})
    (line,) = read_lines(text_of(event).encode()).scores
    assert (line.step, line.split, line.metric) == (7, split, "r_mean")
    assert {name: line.rows[name] for name in scores} == scores
    assert (line.value(), line.value(MEAN_WITHOUT_EN), line.value("en")) == (40.0, 30.0, 50.0)
    assert set(line.rows) == {"en", "de", MEAN, MEAN_WITHOUT_EN} and math.isnan(line.value("fr"))


def test_a_line_that_is_being_written_is_left_out_in_silence():
    text = text_of(interval(1), interval(2), interval(3))
    for cut in range(1, len(text_of(interval(3)))):
        read = read_lines(text.encode()[:-cut])
        assert [line.step for line in read.intervals][:2] == [1, 2] and read.unreadable == 0
    assert [line.step for line in read_lines(text.rstrip("\n").encode()).intervals] == [1, 2, 3]


def test_lines_that_cannot_be_read_are_counted():
    broken = [
        "{",
        "[1]",
        "{}",
        '{"step": "x", "losses": {}}',
        '{"step": true, "losses": {}}',
        "\udcff" * 3,
        "[" * 10**5,
    ]
    text = text_of(interval(1)) + "\n".join(broken) + "\n\n" + text_of(interval(2))
    read = read_lines(text.encode("utf-8", "surrogateescape"))
    assert [line.step for line in read.intervals] == [1, 2] and read.unreadable == len(broken)


def test_values_that_are_no_numbers_are_left_out():
    (line,) = read_lines(
        b'{"step": 1, "losses": {"a/b": "x", "a/c": NaN, "a/d": true, "a/e": 2}, "lr": null}\n'
    ).intervals
    assert list(line.losses) == ["a/c", "a/e"] and math.isnan(line.losses["a/c"]) and line.losses["a/e"] == 2
    assert math.isnan(line.lr) and line.grad_norms == {}


def test_of_two_runs_in_a_file_the_newer_lines_count():
    score = {"en": {"accuracy": 10.0}}
    read = read_lines(
        text_of(
            *(interval(step, loss=1.0) for step in (10, 20, 30)), Validated("validation", 30, score, {"en": 1}),
            *(interval(step, loss=2.0) for step in (15, 25)), Validated("validation", 25, score, {"en": 1}),
        ).encode()
    )  # fmt: skip
    assert [(line.step, line.losses["images/loss_itc"]) for line in read.intervals] == [(10, 1), (15, 2), (25, 2)]
    assert read.steps_back == [StepBack(30, 15)] and [line.step for line in read.scores] == [25]


def test_a_test_of_an_earlier_step_is_no_step_back():
    events = interval(10), Evaluated("test", 5, {"en": {"accuracy": 10.0}}, {"en": 1})
    read = read_lines(text_of(*events, *events[1:]).encode())
    assert not read.steps_back and len(read.scores) == 1 and read.last_step == 10


def test_an_empty_file_has_no_last_step():
    assert read_lines(b"").last_step is None
