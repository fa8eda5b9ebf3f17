"""When fine-tuning validates, and which model it keeps."""

import math

import pytest

from cclm.config.finetune import EpochTrainingConfig
from cclm.metrics.measured import Measured
from cclm.training.validation import Validations, total_steps, validation_interval, validation_steps


@pytest.mark.parametrize(
    ("settings", "examples", "expected"),
    [
        ({"epochs": 3, "batch_size": 4}, 10, [2, 4, 6]),  # as published, what fills no batch counts for no step
        ({"epochs": 4, "batch_size": 4, "first_validation": 2}, 8, [6, 8]),
        ({"epochs": 60, "batch_size": 128, "first_validation": 9, "validate_every": 10}, 3, [10, 20, 30, 40, 50, 60]),
        ({"epochs": 5, "batch_size": 4, "first_validation": 1, "validate_every": 2}, 4, [2, 4, 5]),  # always at the end
        ({"epochs": 9, "batch_size": 4, "max_steps": 5}, 8, [2, 4, 5]),
        ({"epochs": 2, "batch_size": 4, "first_validation": 7}, 8, [4]),
    ],
)
def test_validation_is_due_after_epochs_and_at_the_end(settings, examples, expected) -> None:
    training = EpochTrainingConfig(**settings)
    assert validation_steps(training, examples) == expected
    assert total_steps(training, examples) == expected[-1]
    interval = validation_interval(training, examples)
    assert all(step % interval == 0 for step in expected[:-1])


def test_a_score_that_is_no_number_is_never_the_best() -> None:
    validations = Validations()
    assert not validations.is_better(math.nan)
    validations.add(1, "accuracy", {"en": Measured({"accuracy": math.nan}, 10)})
    assert validations.is_better(40.0)


def test_of_equal_models_the_first_is_the_best() -> None:
    validations = Validations()
    for step, accuracy, better in ((1, 40.0, True), (2, 40.0, False), (3, 50.0, True), (4, 45.0, False)):
        assert validations.is_better(accuracy) is better
        validations.add(step, "accuracy", {"en": Measured({"accuracy": accuracy}, 10)})
    assert validations.has(3) and not validations.has(5)
    resumed = Validations(validations.results[:2])
    assert resumed.is_better(50.0) and not resumed.is_better(40.0)
