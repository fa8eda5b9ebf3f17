"""Models and batches of `benchmarks.step`.

Dimension letters: B texts, R image side in pixels.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from cclm.config.model import ModelConfig, TextConfig, VisionConfig
from cclm.config.sources import MaskingConfig
from cclm.data.batches.batch import ImageTextBatch, MaskedText, ParallelTextBatch, PretrainBatch, RegionTextBatch
from cclm.data.batches.collate import masked_text
from cclm.data.cleaning import clean_caption
from cclm.data.examples.masking import MaskedIds, draw_positions
from cclm.sequences import Sequences

KINDS = ("images", "texts", "regions")
TEXTS_OF_AN_IMAGE = 3
"""In a batch of regions."""
_SMALL_TEXT = TextConfig(
    vocab_size=16002, hidden_size=384, num_heads=6, intermediate_size=1536, num_layers=12, num_text_layers=6,
    max_positions=130,
)  # fmt: skip
MODELS = {
    "tiny": ModelConfig(
        vision=VisionConfig(image_size=64, embed_dim=32, depths=(1, 1, 1), num_heads=(1, 2, 4), window_size=4),
        text=TextConfig(
            vocab_size=2000, hidden_size=128, num_heads=4, intermediate_size=512, num_layers=4, num_text_layers=2,
            max_positions=130,
        ),
    ),
    "small": ModelConfig(
        vision=VisionConfig(image_size=224, embed_dim=48, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        text=_SMALL_TEXT,
    ),
    "base": ModelConfig(
        vision=VisionConfig(image_size=224, embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
        text=TextConfig(),
    ),
}  # fmt: skip
"""By name: `small` has 39 million parameters, `base` is the published model."""
BOS, PAD, EOS, FIRST = 0, 1, 2, 4


@dataclass(frozen=True)
class Texts:
    """Token ids of captions: `<s> ... </s>`, by image and language."""

    captions: Sequence[Sequence[Sequence[int]]]
    """For each image its captions, one a language, at least two."""

    def draw(self, rng: random.Random, longest: int) -> list[int]:
        """One caption of one image, cut to `longest` tokens."""
        return _cut(rng.choice(rng.choice(self.captions)), longest)

    def draw_pair(self, rng: random.Random, longest: int) -> tuple[list[int], list[int]]:
        """Two captions of one image in different languages."""
        first, second = rng.sample(list(rng.choice(self.captions)), 2)
        return _cut(first, longest), _cut(second, longest)


def made_up(vocabulary: int, rng: random.Random, images: int = 500) -> Texts:
    """Texts as long as real captions in eight languages: 18.4 tokens on average, the longest of 16 about 34."""

    def caption() -> list[int]:
        length = min(60, max(5, round(rng.gammavariate(5.5, 18.4 / 5.5))))
        return [BOS, *(rng.randrange(FIRST, vocabulary - 1) for _ in range(length - 2)), EOS]

    return Texts([[caption() for _ in range(8)] for _ in range(images)])


def read_captions(file: Path, tokenizer: Path | None, vocabulary: int) -> Texts:
    """Captions of a file with lines {"caption": {language: text}}.

    Args:
        tokenizer: a tokenizer.json, or a folder with one. None: one is trained on the captions.
    """
    lines = [json.loads(line)["caption"] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    cleaned = [[clean_caption(text, 40) for text in each.values()] for each in lines if len(each) > 1]
    if tokenizer is None:
        encode = trained([text for texts in cleaned for text in texts], vocabulary)
    else:
        encode = Tokenizer.from_file(str(tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer))
    result = []
    for texts in cleaned:
        ids = [each.ids for each in encode.encode_batch_fast(texts, add_special_tokens=False)]
        result.append([[BOS, *(min(token, vocabulary - 2) for token in each), EOS] for each in ids])
    return Texts(result)


def trained(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A unigram tokenizer as XLM-R's, with a vocabulary of its own."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary - 2, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>",
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def batch_of(kind: str, texts: Texts, config: ModelConfig, size: int, seed: int) -> PretrainBatch:
    """A batch of `size` texts of one kind, with images of noise."""
    rng, generator = random.Random(f"{kind}:{seed}"), torch.Generator().manual_seed(seed)
    vocabulary, side = config.text.vocab_size, config.vision.image_size
    if kind == "texts":
        masking = MaskingConfig(max_tokens=64, max_masks=20)
        pairs = [texts.draw_pair(rng, masking.max_tokens) for _ in range(size)]
        source, target = ([pair[side_] for pair in pairs] for side_ in (0, 1))
        return ParallelTextBatch(
            Sequences.from_lists(source, PAD), _masked(source, masking, vocabulary, rng), Sequences.from_lists(target)
        )
    masking = MaskingConfig()
    ids = [texts.draw(rng, masking.max_tokens) for _ in range(size)]
    text, masked = Sequences.from_lists(ids, PAD), _masked(ids, masking, vocabulary, rng)
    if kind == "images":
        images = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8, generator=generator)
        return ImageTextBatch(images, text, masked)
    owners = torch.arange(size) // TEXTS_OF_AN_IMAGE
    number, patches = int(owners[-1]) + 1, (side // config.vision.total_stride) ** 2
    images = torch.randint(0, 256, (number, side, side, 3), dtype=torch.uint8, generator=generator)
    seen = torch.rand(size, 1 + patches, generator=generator) < 0.3
    seen[:, :2] = True  # [CLS], and at least one patch
    whole = torch.arange(size) % TEXTS_OF_AN_IMAGE == 0
    seen[whole] = True
    boxes = torch.rand(size, 4, generator=generator) * 0.5 + 0.2
    boxes[whole] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    return RegionTextBatch(images, text, masked, owners, seen, boxes, whole)


def _masked(texts: Sequence[Sequence[int]], masking: MaskingConfig, vocabulary: int, rng: random.Random) -> MaskedText:
    result = []
    for ids in texts:
        positions = draw_positions(len(ids), masking.max_masks, masking, rng)
        hidden = list(ids)
        for position in positions:
            hidden[position] = vocabulary - 1
        result.append(MaskedIds(hidden, positions, [ids[position] for position in positions]))
    return masked_text(result, PAD)


def _cut(ids: Sequence[int], longest: int) -> list[int]:
    return list(ids) if len(ids) <= longest else [*ids[: longest - 1], EOS]
