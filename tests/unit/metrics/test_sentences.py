"""What the log says about checkpoints and the network."""

import pytest

from cclm.events import (
    CheckpointSkipped,
    CleanupFailed,
    EvaluationStarted,
    Event,
    NetworkMeasured,
    SavedByOther,
    Waited,
)
from cclm.metrics.sentences import sentence


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (CheckpointSkipped("out/step-00000010", "no manifest"), "skipped checkpoint out/step-00000010: no manifest"),
        (SavedByOther(10, "out"), "step 10 was already saved to out by another attempt of this run"),
        (SavedByOther(10), "step 10 was saved by another attempt of this run meanwhile"),
        (
            CleanupFailed("out/step-00000010", "OSError: no"),
            "could not tidy up out/step-00000010 (OSError: no); it stays",
        ),
        (
            CleanupFailed("out", "OSError: no", is_place=True),
            "could not tidy up out (OSError: no); what is there stays",
        ),
        (NetworkMeasured(2, 4, "gloo", "", 1.25e9), "network of 2 nodes: 1.25 GB/s (gloo)"),
        (
            NetworkMeasured(2, 16, "nccl", "Socket", 5e8, "this is slow"),
            "network of 2 nodes: 0.50 GB/s (nccl, Socket); this is slow",
        ),
        (
            EvaluationStarted("xvnli", "out/best", 9, 1_250_000, 2, "cpu"),
            "xvnli: evaluating out/best (step 9): 1.2 M parameters, 2 processes on cpu",
        ),
        (Waited(10, 1.25, "earlier_save"), "training waited 1.2 s at step 10 for the save before to end"),
    ],
)
def test_sentence(event: Event, expected: str) -> None:
    assert sentence(event) == expected
