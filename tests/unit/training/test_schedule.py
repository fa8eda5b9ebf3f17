"""The learning rate of every step, against the published schedule."""

import json
from pathlib import Path

import pytest

from cclm.config.optimization import ScheduleConfig
from cclm.training.schedule import lr_factor, warmup_steps

GOLDEN = Path(__file__).parents[2] / "golden" / "extra.json"


def test_published_rates():
    rows = json.loads(GOLDEN.read_text())["lr_60_steps_warmup_0.1"]
    warmup = warmup_steps(ScheduleConfig(warmup_fraction=0.1), 60)
    assert len(rows) == 61
    for step, row in enumerate(rows):
        factor = lr_factor(step, 60, warmup)
        assert [1e-4 * factor, 2e-4 * factor] == pytest.approx(row, rel=1e-12)


def test_without_warmup_it_starts_at_the_base_rate():
    assert warmup_steps(ScheduleConfig(), 10) == 0
    assert [lr_factor(step, 4, 0) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]


def test_warmup_longer_than_the_run_never_decays():
    assert warmup_steps(ScheduleConfig(warmup_steps=100), 10) == 100
    assert [lr_factor(step, 10, 100) for step in (0, 5, 9)] == [0, 0.05, 0.09]


def test_fraction_is_rounded_down():
    assert warmup_steps(ScheduleConfig(warmup_fraction=0.1), 69) == 6
