"""A tiny demo world with a model, as configs of the four tasks; and the evaluation of all of them by W processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import yaml

from cclm import distributed
from cclm.config.files import load_config
from cclm.data.examples.tokenizer import load_tokenizer
from cclm.demo.world import TOKENIZER_FOLDER
from cclm.metrics.results import as_json
from cclm.training.initial_task import initial_task
from cclm.training.task_tests import TaskTests, read_sets

LANGUAGES = ("en", "de", "zh")
SIDE = 32


def model_of(world: Path) -> dict[str, Any]:
    """Two text layers and two of fusion, for pictures of 32 px."""
    tokenizer = world / TOKENIZER_FOLDER
    vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    return {
        "vision": {
            "image_size": SIDE, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2],
            "window_size": 4,
        },
        "text": {
            "vocab_size": vocabulary, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "num_layers": 4,
            "num_text_layers": 2, "max_positions": 64, "tokenizer": str(tokenizer), "initializer_range": 0.2,
        },
        "embed_dim": 32,
    }  # fmt: skip


def task_settings(world: Path) -> dict[str, dict[str, Any]]:
    """task -> its own settings."""
    iglue, images = f"{world}/iglue/datasets", f"{world}/images"

    def tests(pattern: str) -> dict[str, str]:
        return {language: pattern.format(language) for language in LANGUAGES}

    multi30k = f"{world}/data/finetune/multi30k"
    return {
        "classification": {
            "data": {
                "image_root": f"{images}/flickr30k-images",
                "train_files": f"{iglue}/XVNLI/annotations/en/train.jsonl",
                "validation_files": {"en": f"{iglue}/XVNLI/annotations/en/dev.jsonl"},
                "test_files": tests(f"{iglue}/XVNLI/annotations/{{}}/test.jsonl"),
            },
            "evaluation": {"batch_size": 2},
        },
        "answering": {
            "decoder_layers": 2,
            "data": {
                "image_root": f"{images}/gqa",
                "answer_list": f"{iglue}/gqa/annotations/trainval_ans2label.json",
                "train_files": f"{iglue}/gqa/annotations/train.json",
                "validation_files": {"en": f"{iglue}/gqa/annotations/valid.json"},
                "test_files": tests(f"{iglue}/xGQA/annotations/few_shot/{{}}/test.json"),
            },
            "evaluation": {"batch_size": 2, "candidates": 6},
        },
        "reasoning": {
            "data": {
                "image_root": f"{images}/nlvr2",
                "marvl_root": f"{images}/marvl-images",
                "train_files": f"{iglue}/nlvr2/annotations/train.jsonl",
                "validation_files": {"en": f"{iglue}/nlvr2/annotations/dev.jsonl"},
                "test_files": tests(f"{iglue}/marvl/zero_shot/annotations/marvl-{{}}.jsonl"),
            },
            "evaluation": {"batch_size": 3},
        },
        "retrieval": {
            "data": {
                "image_root": images,
                "train_files": f"{multi30k}/train.en.json",
                "validation_files": {"en": f"{multi30k}/val.en.json"},
                "test_files": tests(f"{multi30k}/test_2016_flickr.{{}}.json"),
            },
            "evaluation": {"batch_size": 2, "text_batch_size": 3, "candidates": 3},
        },
    }


def write_config(path: Path, world: Path, task: str, **changes: Any) -> Path:
    """A config file; `changes` replace or extend whole blocks."""
    settings = {"task": task, "model": model_of(world), "output_dir": str(path.with_suffix(""))}
    settings |= task_settings(world)[task]
    for key, value in changes.items():
        settings[key] = {**settings.get(key, {}), **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def evaluate_all(folder: Path, configs: dict[str, Path]) -> None:
    """Measure the tests of all tasks with fresh weights; the first process writes `<task>.json` into `folder`."""
    torch.set_num_threads(1)
    for task, path in configs.items():
        config = load_config(path)
        measured = TaskTests(config, load_tokenizer(config.model.text.tokenizer), torch.device("cpu")).measure(
            initial_task(config, None), read_sets(config, "test", None, "error")
        )
        if distributed.rank() == 0:
            lines = {language: each.predictions for language, each in measured.items()}
            (folder / f"{task}.json").write_text(json.dumps([as_json(measured), lines]))


def evaluate_as(rank: int, world_size: int, port: int, folder: Path, configs: dict[str, Path]) -> None:
    """One of `world_size` processes; started by torch.multiprocessing.spawn."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.initialize()
    evaluate_all(folder, configs)
    distributed.shutdown()
