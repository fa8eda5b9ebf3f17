"""Small real data for the tests of the data side: files, a tokenizer, configs."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from PIL import Image
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cclm.config import PretrainConfig
from cclm.data.text import Tokenizer, load_tokenizer

NOUNS = ("dog", "ball", "house", "tree", "river", "cat", "lamp", "boat")
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
PLACES = ("on the grass", "near a window", "under the bridge", "beside an old fence")
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def jpeg(number: int, width: int = 48, height: int = 40) -> bytes:
    """A picture that differs from number to number: smooth colours, with `number` in the brightness."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((x * (c + 1) + y * (number % 7 + 1) + number * 13) / 9.0) for c in range(3)]
    values = (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sentence(number: int) -> str:
    """A text that names `number`, so that records can be told apart in batches."""
    colour, noun = COLOURS[number % len(COLOURS)], NOUNS[number % len(NOUNS)]
    return f"a {colour} {noun} {PLACES[number % len(PLACES)]} r{number}"


def image_text(number: int) -> dict[str, Any]:
    return {"binary": b64(jpeg(number)), "caption": {"en": sentence(number), "de": f"ein {sentence(number)}"}}


def region(number: int) -> dict[str, Any]:
    """Even numbers have a caption of the whole image too."""
    boxes = [[2, 3, 10 + number % 20, 12], [20, 5, 15, 30], [0, 0, 48, 40]][: 1 + number % 3]
    elems = [{"bb": box, "caption": {"en": f"box {i} of r{number}"}} for i, box in enumerate(boxes)]
    whole = {"caption": {"en": sentence(number)}} if number % 2 == 0 else {}
    return {"binary": b64(jpeg(number)), "elems": elems, **whole}


def pair(number: int) -> dict[str, Any]:
    return {"source_text": sentence(number), "target_text": f"das {sentence(number)}"}


def write_lines(path: Path, records: list[Any]) -> Path:
    """Records (or raw lines, as str) to a line-JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An XLM-R-style tokenizer (unigram pieces, word marks) trained on the sentences above."""
    folder = tmp_path_factory.mktemp("tokenizer")
    built = tokenizers.Tokenizer(models.Unigram())
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    built.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    built.train_from_iterator([sentence(i) for i in range(400)] + ["das ein box of"], trainer)
    built.add_special_tokens(["<mask>"])
    built.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    names = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")
    PreTrainedTokenizerFast(tokenizer_object=built, cls_token="<s>", sep_token="</s>", **names).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: str) -> Tokenizer:
    return load_tokenizer(tokenizer_folder)


@pytest.fixture
def make_config(tokenizer_folder: str, tmp_path: Path) -> Any:
    """A tiny config: 32 px images, patches of 8 px; keyword arguments replace blocks of it, `data` is required."""

    def make(data: dict[str, Any], **blocks: Any) -> PretrainConfig:
        vision = dict(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=4)
        text = dict(vocab_size=200, hidden_size=32, num_heads=2, intermediate_size=64, num_layers=2, num_text_layers=1)
        model = dict(vision=vision, text={**text, "tokenizer": tokenizer_folder, "max_positions": 160})
        if "images" not in data:
            unused = write_lines(tmp_path / "unused.jsonl", [image_text(0)])
            data = {"images": dict(files=[str(unused)], batch_size=1), **data}
        return PretrainConfig.model_validate({"model": model, "data": data, "seed": 5, **blocks})

    return make
