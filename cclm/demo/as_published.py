"""What the published commands need beside the data: a tokenizer where they look for one, and configs of a small model.

The configs are those of this project under the published names. They have the laptop's model, and settings under which
a model without initial weights can learn drawn scenes. No file refers to one outside, so the folder can be moved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cclm.config.files import load_config, shipped_configs, to_yaml
from cclm.demo.captions import caption
from cclm.demo.claims import claim_text, draw_pair_claim, draw_question
from cclm.demo.languages import TEST_ONLY
from cclm.demo.scenes import training_scene
from cclm.demo.tokenizer_training import write_tokenizer
from cclm.demo.world_writer import WorldWriter

TOKENIZER = "data/xlm-roberta-large"
_TEXTS = 400  # rounds of texts in each language that only tests have
_POSITIONS = 96  # the longest texts of the tasks have 80 tokens
_STRIDE = 16  # of the laptop's image encoder, px
_BATCH = 64  # of pre-training
_EPOCHS = 7  # of pre-training

_AUGMENT = "{crop_scale: [0.9, 1.0], horizontal_flip: 0.0, rand_augment_ops: 0}"  # captions name colours and sides
_HEADER = """\
# {name} as published, with a small model and settings for a demo world. Written by `cclm demo --as-published`.
"""
_README = """\
# The published commands on a demo world

This folder is laid out as the published README asks, so its commands work here, with `python3 run.py` replaced by
`cclm run`. `configs/` has its config files with a small model; paths are relative to this folder.

    cclm run --task "pretrain_cclm_3m" --dist "1" --output_dir "output/"
    cclm convert output/ pretrained_model.th
    cclm run --dist 1 --task xvnli --output_dir output/xvnli --checkpoint pretrained_model.th --bs 128 --seed 42

`cclm run --help` explains the flags.
"""


def write_published(world: WorldWriter, texts: Mapping[str, Sequence[str]]) -> None:
    """Write `data/xlm-roberta-large` (a tokenizer trained on all languages, and sizes), `configs/` and a README.

    Args:
        texts: those of pre-training, by language.
    """
    further = {code: _texts(world, code) for code in TEST_ONLY}
    pieces = write_tokenizer(world.root / TOKENIZER, {**texts, **further})
    shipped = shipped_configs()
    model = _model(shipped, world.side, pieces)
    for path in sorted([*shipped.glob("Pretrain_*.yaml"), *shipped.glob("cclm-base-ft/*.yaml")]):
        config = load_config(path, [f"model={json.dumps(model)}", *_overrides(path)])
        name = path.relative_to(shipped).as_posix()
        world.text(f"configs/{name}", _HEADER.format(name=name) + to_yaml(config))
    world.text("PUBLISHED.md", _README)


def _texts(world: WorldWriter, code: str) -> list[str]:
    """Texts of every sort that the language has: captions, questions, statements about two pictures."""
    language = TEST_ONLY[code]
    texts = []
    for number in range(_TEXTS):
        rng = world.rng("published", code, number)
        scene = training_scene(rng)
        if language.captions:
            texts.append(caption(scene, language, rng))
        if "q_colour" in language.templates:
            texts.append(claim_text(draw_question(scene, rng), language, rng))
        if "pair_left" in language.templates:
            texts.append(claim_text(draw_pair_claim(scene, training_scene(rng), number % 2 == 0, rng), language, rng))
    return texts


def _model(shipped: Path, side: int, pieces: int) -> dict[str, Any]:
    model: dict[str, Any] = yaml.safe_load((shipped / "model/laptop.yaml").read_text(encoding="utf-8"))["model"]
    model["vision"] |= {"image_size": max(1, round(side / _STRIDE)) * _STRIDE, "weights": None}
    model["text"] |= {"vocab_size": pieces, "max_positions": _POSITIONS, "tokenizer": TOKENIZER, "weights": None}
    return model


def _overrides(path: Path) -> list[str]:
    """What the config file `path` needs, beside the model, to learn on a demo world."""
    name = path.name
    learning = ["optimizer.lr=1e-3", "optimizer.lr_mult=1", f"data.augment={_AUGMENT}"]
    if name.startswith("Pretrain"):
        sources = {"images": "image_text", "texts": "parallel_text"}
        if name == "Pretrain_4m.yaml":
            sources["regions"] = "regions"
        return [
            *learning,
            *(f"data.{source}.files=[data/pretrain/{folder}]" for source, folder in sources.items()),
            *(f"data.{source}.batch_size={_BATCH}" for source in sources),
            *(f"data.{source}.num_workers=0" for source in sources),
            *(["data.regions.max_images=24"] if "regions" in sources else []),
            "objective.weights={itm: 0.1, ttm: 0.1, mlm: 0.1}",
            "schedule={warmup_steps: null, warmup_fraction: 0.05}",
            f"training={{epochs: {_EPOCHS}, dataset_size: null, save_every: null}}",
        ]
    if name.startswith("NLVR_multilingual"):
        files = ["data.images.files=[data/pretrain/image_text]", f"data.images.batch_size={_BATCH}"]
        return [*learning, *files, "data.images.num_workers=0", "training.dataset_size=null"]
    few = ["optimizer.lr=1e-4"] if "fewshot" in name else []
    decoder = ["decoder_layers=1"] if name.startswith("GQA") else []  # as many layers as the laptop's fusion encoder
    return [*learning, *few, *decoder, "training.num_workers=0"]
