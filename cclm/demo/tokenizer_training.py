"""Training of a small tokenizer like XLM-R's: a unigram model with a word mark, and special tokens in XLM-R's places.

The unigram trainer of the package tokenizers gives other pieces at every run, and spends the vocabulary on whole
sentences of scripts that write no spaces. Therefore the pieces come from byte-pair merges, which are repeatable, and
which are kept short where there are no spaces. A piece's score comes from how often the merges use it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from cclm.data.cleaning import clean_caption

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_MASK = "<mask>"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
"""Characters that users may type. The tokenizer knows them even if no text has them."""
_SENTENCES = 4000
"""Of each language, at most."""
_WITHOUT_SPACES = ("zh", "ja")
"""Languages that write no spaces."""
_MOST_PIECES = 1000
_MODEL_LENGTH = 128
"""Longest text, tokens."""


class _Merges(NamedTuple):
    """How byte-pair merges are learnt."""

    pieces: int
    """Number of pieces, single characters among them."""
    longest: int | None
    """Characters of a piece, at most."""


_MERGES = _Merges(1700, longest=None)
_MERGES_WITHOUT_SPACES = _Merges(420, longest=4)


def write_tokenizer(folder: Path, texts: Mapping[str, Sequence[str]]) -> int:
    """Train on texts by language and write a folder that `AutoTokenizer.from_pretrained` reads offline.

    The folder also gets a `config.json` in Hugging Face's xlm-roberta layout, but no weights. Returns the size of the
    vocabulary.
    """
    tokenizer = train_tokenizer(texts)
    size = tokenizer.get_vocab_size()
    folder.mkdir(parents=True, exist_ok=True)
    special = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": _MASK,
    }
    settings = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _MODEL_LENGTH,
        "clean_up_tokenization_spaces": False,
    }
    config = {
        "model_type": "xlm-roberta",
        "architectures": ["XLMRobertaForMaskedLM"],
        "vocab_size": size,
        "hidden_size": 128,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": _MODEL_LENGTH + 2,
        "type_vocab_size": 1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    for name, content in (("tokenizer_config", settings), ("special_tokens_map", special), ("config", config)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return size


def train_tokenizer(texts: Mapping[str, Sequence[str]]) -> Tokenizer:
    """A unigram tokenizer: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, pieces by falling score, `<mask>` last.

    Args:
        texts: by language.
    """
    spaced = [line for code, lines in texts.items() if code not in _WITHOUT_SPACES for line in _cleaned(lines)]
    unspaced = [line for code in _WITHOUT_SPACES for line in _cleaned(texts.get(code, ()))]
    uses: Counter[str] = Counter()
    uses += _merge_uses(spaced, _MERGES)
    uses += _merge_uses(unspaced, _MERGES_WITHOUT_SPACES)
    characters = {character for piece in uses for character in piece} | set(_ALPHABET) | {"▁"}
    total = sum(uses.values())
    # A character that occurs only inside pieces still needs a score, one below that of every piece in use.
    floor = math.log(0.5 / total)
    scores = {character: floor for character in characters} | {
        piece: math.log(number / total) for piece, number in uses.items()
    }
    pieces = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
    # The laptop model's vocabulary has a fixed size, and few sentences can leave more pieces than many do. So the worst
    # pieces are dropped, but no single character.
    longer = [piece for piece, _ in pieces if len(piece) > 1]
    left_out = set(longer[max(0, _MOST_PIECES - (len(pieces) - len(longer))) :])
    pieces = [entry for entry in pieces if entry[0] not in left_out]
    vocabulary = [(token, 0.0) for token in _SPECIAL] + pieces + [(_MASK, 0.0)]
    tokenizer = _untrained(models.Unigram(vocabulary, unk_id=_SPECIAL.index("<unk>"), byte_fallback=False))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*_SPECIAL, _MASK])
    return tokenizer


def _untrained(model: models.Model) -> Tokenizer:
    """A tokenizer that normalises and splits into words as XLM-R's does."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def _cleaned(lines: Iterable[str]) -> list[str]:
    return [clean_caption(line, max_words=64) for line in list(lines)[:_SENTENCES]]


def _merge_uses(lines: Sequence[str], merges: _Merges) -> Counter[str]:
    """How often each piece is used on the lines from which the merges were learnt."""
    if not lines:
        return Counter()
    tokenizer = _untrained(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=merges.pieces, min_frequency=2, show_progress=False, max_token_length=merges.longest
    )
    tokenizer.train_from_iterator(lines, trainer)
    uses: Counter[str] = Counter()
    for encoding in tokenizer.encode_batch(list(lines)):
        uses.update(encoding.tokens)
    return uses
