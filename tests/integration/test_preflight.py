"""`cclm launch` looks at the machine and at what the run needs before it starts processes."""

import os
import re
import subprocess
import sys

import pytest

from tests.stores.server import free_ports

from .conftest import end, environment, start, verdict
from .test_launch import SMALL

pytestmark = pytest.mark.slow

BROKEN = {"NVIDIA_VISIBLE_DEVICES": "GPU-5a1c,GPU-77d0"}
"""As on a machine whose device plugin gives two GPUs, of which the container sees none."""


def test_a_wrong_config_is_one_sentence_before_anything_starts(config, tmp_path, launch):
    run = launch(config(**SMALL | {"data.images.files": [str(tmp_path / "nowhere")]}), "--max-restarts", 3)
    err = end(run, 2)
    assert err.count("nowhere does not exist") == 1, err
    assert "exit code 2: not to be retried" in verdict(err)
    assert not (tmp_path / "run").exists()


def test_a_broken_machine_may_be_replaced(config, tmp_path, launch, monkeypatch):
    for name, value in BROKEN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    err = end(launch(config(**SMALL | {"training.max_steps": 1})), 203)
    assert "PyTorch can use no GPU here (NVIDIA_VISIBLE_DEVICES=GPU-5a1c,GPU-77d0)" in verdict(err)
    assert not (tmp_path / "run").exists()
    end(launch(config(**SMALL | {"training.max_steps": 1}), "--no-preflight", processes=1), 0)


def test_weights_are_looked_for_as_long_as_the_run_has_not_begun(config, tmp_path):
    path = config(**SMALL | {"model.weights": str(tmp_path / "nowhere.th")})
    err = end(start("launch", "--preflight-only", "--", "pretrain", path), 2)
    assert "model.weights: " in verdict(err) and "nowhere.th does not exist" in verdict(err)
    begun = tmp_path / "run" / "step-00000003"
    begun.mkdir(parents=True)
    (begun / "manifest.json").touch()
    end(start("launch", "--preflight-only", "--", "pretrain", path), 0)


def test_checks_alone(config, tmp_path):
    run = start("launch", "--preflight-only", "--", "pretrain", config(**SMALL))
    err = end(run, 0)
    assert verdict(err).endswith("checked: gpus, enough_gpus, output_dir, inputs, shared_memory")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_container_with_little_shared_memory(config):
    """In a mount namespace of its own, /dev/shm is small, as in a container, and the loaders need more."""
    path = config(**SMALL | {"data.images.num_workers": 2, "data.images.batch_size": 512})
    command = [sys.executable, "-m", "cclm", "launch", "--preflight-only", "--", "pretrain", str(path)]
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 2, done.stderr
    assert "/dev/shm has 1 MiB left, but the loader processes" in verdict(done.stderr)


def test_two_nodes_measure_their_network(config, tmp_path, launch):
    """Once, before they train, and one of them says so."""
    (port,) = free_ports(1)
    path = config(**SMALL | {"training.max_steps": 1})
    options = ("--nnodes", 2, "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "two")
    runs = [launch(path, *options, processes=1) for _ in range(2)]
    outputs = [run.communicate(timeout=480) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    said = [line for pair in outputs for text in pair for line in text.splitlines() if "network of 2 nodes: " in line]
    assert len(said) == 1 and re.search(r"\d+\.\d\d GB/s \(gloo\)$", said[0]), outputs
