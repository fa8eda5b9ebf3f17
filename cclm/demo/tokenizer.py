"""A small XLM-R-style tokenizer: unigram pieces with a word mark, special tokens where XLM-R has them.

The unigram trainer at hand gives other pieces at every run and spends the vocabulary on whole sentences of scripts
that write no spaces. So pieces come from byte-pair merges (repeatable; short ones only where there are no spaces), and
their scores from how often the merges use them: a unigram model in the end, as XLM-R's.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from cclm.data.cleaning import clean_caption

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_MASK = "<mask>"
# Known even if no text shows them: what users may type.
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_SENTENCES = 4000
_WITHOUT_SPACES = ("zh", "ja")
_MOST_PIECES = 1000
_MERGED = 1700
_MERGED_WITHOUT_SPACES = 420
_LONGEST_WITHOUT_SPACES = 4
_MODEL_LENGTH = 128


def write_tokenizer(folder: Path, texts: Mapping[str, Sequence[str]]) -> int:
    """Train on texts by language and write a folder that `AutoTokenizer.from_pretrained` reads offline.

    A `config.json` of the Hugging Face xlm-roberta layout lies beside it (no weights). Returns the vocabulary's size.
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
    """A unigram tokenizer: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, pieces by falling score, `<mask>` last."""
    spaced = [line for code, lines in texts.items() if code not in _WITHOUT_SPACES for line in _cleaned(lines)]
    unspaced = [line for code in _WITHOUT_SPACES for line in _cleaned(texts.get(code, ()))]
    uses: Counter[str] = Counter()
    for lines, merged, longest in (
        (spaced, _MERGED, None),
        (unspaced, _MERGED_WITHOUT_SPACES, _LONGEST_WITHOUT_SPACES),
    ):
        uses += _merge_uses(lines, merged, longest)
    characters = {character for piece in uses for character in piece} | set(_ALPHABET) | {"▁"}
    total = sum(uses.values())
    # A character that only occurs inside pieces still needs a score, worse than any piece in use.
    floor = math.log(0.5 / total)
    scores = {character: floor for character in characters} | {
        piece: math.log(number / total) for piece, number in uses.items()
    }
    pieces = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))
    # The laptop model's vocabulary is fixed; few sentences can leave more pieces than many do. Characters stay.
    longer = [piece for piece, _ in pieces if len(piece) > 1]
    left_out = set(longer[max(0, _MOST_PIECES - (len(pieces) - len(longer))) :])
    pieces = [entry for entry in pieces if entry[0] not in left_out]
    vocabulary = [(token, 0.0) for token in _SPECIAL] + pieces + [(_MASK, 0.0)]
    tokenizer = _shell(models.Unigram(vocabulary, unk_id=_SPECIAL.index("<unk>"), byte_fallback=False))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*_SPECIAL, _MASK])
    return tokenizer


def _shell(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def _cleaned(lines: Iterable[str]) -> list[str]:
    return [clean_caption(line, max_words=64) for line in list(lines)[:_SENTENCES]]


def _merge_uses(lines: Sequence[str], merged: int, longest: int | None) -> Counter[str]:
    """How often the learnt merges use each piece on the lines they were learnt from."""
    if not lines:
        return Counter()
    tokenizer = _shell(models.BPE())
    options = {} if longest is None else {"max_token_length": longest}
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=merged, min_frequency=2, show_progress=False, **options)
    )
    uses: Counter[str] = Counter()
    for encoding in tokenizer.encode_batch(list(lines)):
        uses.update(encoding.tokens)
    return uses
