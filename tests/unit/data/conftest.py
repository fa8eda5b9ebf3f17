"""A small tokenizer and configs for the tests of the data side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from record_files import image_text, sentence, write_lines
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cclm.config.pretrain import PretrainConfig
from cclm.data.examples.tokenizer import Tokenizer, load_tokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


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
