"""The tokenizer of a Hugging Face folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cclm.data.cleaning import EmptyTextError
from cclm.errors import UserError, advice_on_missing

_WORD_MARK = "\u2581"  # SentencePiece puts it where a space stood: the token starts a word


@dataclass(frozen=True)
class Tokenizer:
    """Text -> ids `<s> ... </s>` of an XLM-R-style tokenizer. Build with `load_tokenizer`."""

    folder: str
    hugging_face: Any
    bos: int
    """Id of `<s>`."""
    eos: int
    """Id of `</s>`."""
    pad: int
    mask: int
    vocab_size: int
    """Number of ids, added tokens included."""

    def ids(self, text: str, max_tokens: int) -> list[int]:
        """`<s> ... </s>`, cut to `max_tokens` with `</s>` kept. Raises EmptyTextError if no token stands between."""
        if not text.isascii():  # half surrogate pairs, which JSON can spell, are no Unicode and stop the tokenizer
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        backend = getattr(self.hugging_face, "backend_tokenizer", None)
        if backend is not None:  # 5 times faster than the call that builds a BatchEncoding, and does without places
            [encoding] = backend.encode_batch_fast([text], add_special_tokens=False)
            content = encoding.ids
        else:
            content = self.hugging_face.encode(text, add_special_tokens=False)
        if not content:
            raise EmptyTextError("the tokenizer finds no token in the text")
        return [self.bos, *content[: max_tokens - 2], self.eos]

    @cached_property
    def ordinary_ids(self) -> list[int]:
        """Ids that stand for text (not `<s>`, `<mask>` ...), ascending: what a random replacement is drawn from."""
        special = set(self.hugging_face.all_special_ids)
        return [i for i in range(self.vocab_size) if i not in special]

    @cached_property
    def starts_word(self) -> list[bool]:
        """By id: the token is the first of a word (special tokens are words of their own)."""
        special = set(self.hugging_face.all_special_ids)
        tokens = self.hugging_face.convert_ids_to_tokens(list(range(self.vocab_size)))
        return [i in special or token is None or token.startswith(_WORD_MARK) for i, token in enumerate(tokens)]


def load_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer of a Hugging Face folder (tokenizer.json or sentencepiece.bpe.model); never downloads."""
    if not Path(folder).is_dir():
        advice = advice_on_missing(folder, "put an XLM-R tokenizer there or set model.text.tokenizer")
        raise UserError(f"the tokenizer folder {folder} does not exist; {advice}")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text at a time: its threads only cost, after a fork
    from transformers import AutoTokenizer  # heavy import, needed by few of those who import this module

    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for a folder without a usable tokenizer
        first_line = str(error).strip().split("\n")[0]
        raise UserError(f"no tokenizer can be read from {folder} (model.text.tokenizer): {first_line}") from error
    if getattr(loaded, "backend_tokenizer", None) is not None:
        loaded.backend_tokenizer.no_truncation()
        loaded.backend_tokenizer.no_padding()
    special = {
        "<s>": loaded.bos_token_id if loaded.bos_token_id is not None else loaded.cls_token_id,
        "</s>": loaded.eos_token_id if loaded.eos_token_id is not None else loaded.sep_token_id,
        "<pad>": loaded.pad_token_id,
        "<mask>": loaded.mask_token_id,
    }
    missing = [name for name, number in special.items() if number is None]
    if missing:
        raise UserError(f"the tokenizer in {folder} has no {' and no '.join(missing)}; an XLM-R tokenizer is needed")
    bos, eos, pad, mask = special.values()
    return Tokenizer(folder, loaded, bos, eos, pad, mask, len(loaded))
