"""A small demo world, a model of two layers a stack, and the commands run as users run them: in processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cclm.demo.world import TOKENIZER_FOLDER, DemoSize, make_demo_world

SIDE = 32


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Pre-training files of all four kinds, held-out lists, and a tokenizer."""
    root = tmp_path_factory.mktemp("demo") / "world"
    size = DemoSize(
        image_side=SIDE, image_text=100, regions=40, mono=30, parallel=50, held_out_test=12, held_out_validation=2,
        finetune_train=2, finetune_test=2,
    )  # fmt: skip
    make_demo_world(root, seed=1, size=size, progress=False)
    return root


@pytest.fixture
def config(world, tmp_path):
    """Writes a config file with changes, as {"key.sub": value}, and returns its path; all four kinds train."""

    def write(name: str = "run", **changes: object) -> Path:
        pretrain = world / "data" / "pretrain"
        text = {"max_tokens": 24}
        tokenizer = world / TOKENIZER_FOLDER
        vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
        settings = {
            "seed": 5,
            "output_dir": str(tmp_path / name),
            "model": {
                "vision": {
                    "image_size": SIDE, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2],
                    "window_size": 4,
                },
                "text": {
                    "vocab_size": vocabulary, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64,
                    "num_layers": 2, "num_text_layers": 1, "max_positions": 64, "tokenizer": str(tokenizer),
                },
                "embed_dim": 32,
            },
            "data": {
                "images": {"files": [f"{pretrain}/image_text"], "batch_size": 8, "num_workers": 1, "text": text},
                "regions": {
                    "files": [f"{pretrain}/regions"], "batch_size": 8, "max_images": 4, "probability": 0.5,
                    "num_workers": 1, "text": text,
                },
                "images_mono": {
                    "files": [f"{pretrain}/image_text_mono"], "batch_size": 8, "caption_key": "desc",
                    "probability": 0.3, "num_workers": 0, "text": text,
                },
                "texts": {
                    "files": [f"{pretrain}/parallel_text"], "batch_size": 8, "probability": 0.5, "num_workers": 0,
                    "text": text,
                },
                "augment": {"horizontal_flip": 0.0},
            },
            "optimizer": {"lr": 2e-3},
            "schedule": {"warmup_fraction": 0.1},
            "training": {"max_steps": 20, "log_every": 1, "save_every": 5},
        }  # fmt: skip
        for key, value in changes.items():
            *parents, last = key.split(".")
            block = settings
            for parent in parents:
                block = block.setdefault(parent, {})
            block[last] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return path

    return write


@pytest.fixture
def held_out(world):
    """The evaluation block for some languages."""

    def block(*languages: str) -> dict:
        files = {language: str(world / "data" / "heldout" / f"{language}.json") for language in languages}
        return {"files": files, "image_root": str(world / "images"), "candidates": 4, "max_tokens": 24}

    return block


def environment() -> dict[str, str]:
    """One thread: small models gain nothing from more, and two processes share the machine."""
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


def start(*args: object, processes: int | None = None, **options: Any) -> subprocess.Popen:
    """Start `python -m cclm ...`, or the same under torchrun; options are those of Popen."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "cclm", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True, **options,
    )  # fmt: skip


def run(*args: object, processes: int | None = None, code: int = 0) -> subprocess.CompletedProcess:
    """Run `cclm ...` to its end and check its exit code."""
    process = start(*args, processes=processes)
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def metrics(folder: Path) -> list[dict]:
    """Lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


@pytest.fixture
def launch() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `cclm launch OPTIONS -- pretrain CONFIG`; what is left over at the end is killed."""
    started = []

    def begin(config: Path, *options: object, processes: int = 2, resume: str = "auto") -> subprocess.Popen:
        command = ("pretrain", config, "--resume", resume)
        process = start("launch", "--nproc-per-node", processes, *options, "--", *command)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def end(process: subprocess.Popen, code: int, timeout: float = 240) -> str:
    """Wait for its end, check the exit code; returns what it printed on stderr."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    assert "Root Cause (first observed failure)" not in err  # torchrun's own account
    return err


def verdict(err: str) -> str:
    """The last line of the launcher's."""
    return [line for line in err.splitlines() if line.startswith(("cclm launch: ", "cclm: error: "))][-1]
