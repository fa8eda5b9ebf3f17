"""The run that cluster tests break: a tiny demo world, and what the same run gives when nobody disturbs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from cclm.demo.world import TOKENIZER_FOLDER, DemoSize, make_demo_world

from .common import PROJECT, ClusterError

SIDE = 32
BATCH = 12
"""Records of a step; divides among one, two and three processes."""
SAVE_EVERY = 10
"""Steps between checkpoints."""
WARM = 5
"""Steps after which a run is under way."""


def make_world(folder: Path) -> None:
    """Draw the world: pre-training files and a tokenizer, readable for every user."""
    size = DemoSize(
        image_side=SIDE, image_text=100, regions=4, mono=4, parallel=50, held_out_test=4, held_out_validation=2,
        finetune_train=2, finetune_test=2,
    )  # fmt: skip
    make_demo_world(folder, seed=1, size=size, progress=False)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def settings(world: Path, data: str, steps: int, **changes: Any) -> dict[str, Any]:
    """A config of `cclm pretrain` whose losses are the same on any number of processes, up to rounding.

    Args:
        world: where the tokenizer is, on a disk.
        data: folder or URL of the pre-training files.
        steps: outer steps of the whole run.
        changes: settings by their dotted names, with `__` for the dot.
    """
    tokenizer = world / TOKENIZER_FOLDER
    vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    chosen: dict[str, Any] = {
        "seed": 5,
        "output_dir": "/tmp/run",
        "model": {
            "vision": {
                "image_size": SIDE, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2],
                "window_size": 4, "drop_path": 0.0,
            },
            "text": {
                "vocab_size": vocabulary, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64,
                "num_layers": 2, "num_text_layers": 1, "max_positions": 64, "tokenizer": str(tokenizer),
                "dropout": 0.0, "attention_dropout": 0.0,
            },
            "embed_dim": 32,
        },
        "data": {
            "images": {
                "files": [f"{data}/image_text"], "batch_size": BATCH, "num_workers": 0, "text": {"max_tokens": 24},
            },
            "texts": {
                "files": [f"{data}/parallel_text"], "batch_size": BATCH, "probability": 0.5, "num_workers": 0,
                "text": {"max_tokens": 24},
            },
            "augment": {"horizontal_flip": 0.0},
        },
        # Negatives for matching are drawn from a process's own rows, and masked tokens are averaged over them.
        "objective": {"contrastive_gradient": "global", "weights": {"itm": 0.0, "mlm": 0.0, "ttm": 0.0}},
        # Small, so that rounding, which differs with the number of processes, is still small after a thousand steps.
        "optimizer": {"lr": 1e-5},
        "schedule": {"warmup_fraction": 0.0},
        "training": {"max_steps": steps, "log_every": 1, "save_every": SAVE_EVERY},
    }  # fmt: skip
    for name, value in changes.items():
        *parents, last = name.split("__")
        block = chosen
        for parent in parents:
            block = block.setdefault(parent, {})
        block[last] = value
    return chosen


def write(path: Path, content: dict[str, Any]) -> Path:
    """Write a config where pods can read it."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    path.chmod(0o644)
    return path


class Undisturbed:
    """The same run on this machine, started now and waited for when its result is asked for."""

    def __init__(self, config: Path, output: Path, *overrides: str) -> None:
        self.output = output
        words = [sys.executable, "-m", "cclm", "pretrain", str(config), f"output_dir={output}", *overrides]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
        output.mkdir(parents=True)
        self._log = output.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def losses(self, timeout: float = 900) -> dict[int, dict[str, float]]:
        """Step to its losses; waits for the end of the run. Raises ClusterError."""
        if self._process.wait(timeout) != 0:
            raise ClusterError(f"the run without disturbance failed: {self._log.read_text()[-800:]}")
        return losses((self.output / "metrics.jsonl").read_text())

    def end(self) -> None:
        """Kill it if it still runs."""
        self._process.kill()
        self._process.wait()


def losses(text: str) -> dict[int, dict[str, float]]:
    """Step to its losses, from the text of `metrics.jsonl`. Raises ClusterError if a step stands there twice."""
    found: dict[int, dict[str, float]] = {}
    for line in map(json.loads, text.splitlines()):
        if "losses" in line:
            if line["step"] in found:
                raise ClusterError(f"metrics.jsonl has step {line['step']} twice")
            found[line["step"]] = line["losses"]
    return found
