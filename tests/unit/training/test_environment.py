"""Threads, seeds and precision of a training process."""

import subprocess
import sys

import pytest
import torch

from cclm.training.environment import autocast, seed_of, usable_cores


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, usable_cores()),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, max(1, usable_cores() // 2)),  # as torchrun sets it
        ({"OMP_NUM_THREADS": "2", "LOCAL_WORLD_SIZE": "1000"}, 2),
        ({"LOCAL_WORLD_SIZE": "1000"}, 1),
    ],
)
def test_threads(variables, expected):
    code = "import torch; from cclm.training.environment import set_threads; print(set_threads(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert int(done.stdout) == expected


def test_seeds_differ_by_every_part_of_their_place():
    places = [(1, 2, "images", 0), (2, 2, "images", 0), (1, 3, "images", 0), (1, 2, "texts", 0), (1, 2, "images", 1)]
    seeds = {seed_of(*place) for place in places}
    assert len(seeds) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_precision():
    cpu = torch.device("cpu")
    matrix = torch.ones(2, 2)
    for precision, expected in (("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(precision, cpu):
            assert (matrix @ matrix).dtype == expected
