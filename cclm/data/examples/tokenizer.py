"""The tokenizer of a Hugging Face folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from cclm.data.cleaning import EmptyTextError
from cclm.data.examples.sentencepiece_model import WORD_MARK, tokenizer_of_sentencepiece
from cclm.errors import UserError, advice_on_missing

# Where a folder's settings name no token for a role, these names are looked for.
_USUAL_NAMES = {
    "bos_token": "<s>",
    "cls_token": "[CLS]",
    "eos_token": "</s>",
    "sep_token": "[SEP]",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
    "unk_token": "<unk>",
}


class Encoding(Protocol):
    """What a tokenizer gives for one text."""

    @property
    def ids(self) -> list[int]: ...


class Backend(Protocol):
    """What `Tokenizer` asks of a `tokenizers.Tokenizer`."""

    def encode_batch_fast(self, input: Sequence[str], *, add_special_tokens: bool) -> Sequence[Encoding]: ...

    def id_to_token(self, id: int) -> str | None: ...


@dataclass(frozen=True)
class Tokenizer:
    """Turns text into ids `<s> ... </s>`, as XLM-R's tokenizer does. Build with `load_tokenizer`."""

    folder: str
    backend: Backend
    bos: int
    """Id of `<s>`."""
    eos: int
    """Id of `</s>`."""
    pad: int
    """Id of `<pad>`."""
    mask: int
    """Id of `<mask>`."""
    vocab_size: int
    """Number of ids, added tokens included."""
    special: frozenset[int]
    """Ids that stand for no text: the four above, `<unk>`, and whatever else the folder calls special."""

    def ids(self, text: str, max_tokens: int) -> list[int]:
        """`<s> ... </s>`, cut to `max_tokens`; `</s>` is kept.

        Raises:
            EmptyTextError: no token stands between the two.
        """
        if not text.isascii():
            # JSON can spell half a surrogate pair. That is no Unicode, and the tokenizer would fail.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        [encoding] = self.backend.encode_batch_fast([text], add_special_tokens=False)  # fast: without offsets
        content = encoding.ids
        if not content:
            raise EmptyTextError("the tokenizer finds no token in the text")
        return [self.bos, *content[: max_tokens - 2], self.eos]

    @cached_property
    def ordinary_ids(self) -> list[int]:
        """Ids that stand for text, ascending: random replacements of masked tokens are drawn from them."""
        return [i for i in range(self.vocab_size) if i not in self.special]

    @cached_property
    def starts_word(self) -> list[bool]:
        """For each id whether the token is the first of a word. Special tokens are words of their own."""
        tokens = [self.backend.id_to_token(i) for i in range(self.vocab_size)]
        return [i in self.special or token is None or token.startswith(WORD_MARK) for i, token in enumerate(tokens)]


def load_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: `tokenizer.json`, else `sentencepiece.bpe.model`.

    Text becomes ids by the rules of that file alone. `tokenizer_config.json` and `special_tokens_map.json` may be
    there, and only say which of the file's tokens begin a text, end it, and so on.

    Raises:
        UserError: there is no such folder, no such file in it, or none that has the tokens of XLM-R.
    """
    path = Path(folder)
    if not path.is_dir():
        advice = advice_on_missing(folder, "put an XLM-R tokenizer there or set model.text.tokenizer")
        raise UserError(f"the tokenizer folder {folder} does not exist; {advice}")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # texts come one by one: threads would only cost
    backend = _read_backend(path)
    backend.no_truncation()
    backend.no_padding()
    names = _USUAL_NAMES | _named_tokens(path)
    ids = {role: backend.token_to_id(name) for role, name in names.items()}
    needed = {
        "<s>": ids["bos_token"] if ids["bos_token"] is not None else ids["cls_token"],
        "</s>": ids["eos_token"] if ids["eos_token"] is not None else ids["sep_token"],
        "<pad>": ids["pad_token"],
        "<mask>": ids["mask_token"],
    }
    found = [number for number in needed.values() if number is not None]
    if len(found) < len(needed):
        missing = " and no ".join(name for name, number in needed.items() if number is None)
        raise UserError(f"the tokenizer in {folder} has no {missing}; an XLM-R tokenizer is needed")
    special = {number for number in ids.values() if number is not None}
    special |= {number for number, token in backend.get_added_tokens_decoder().items() if token.special}
    bos, eos, pad, mask = found
    return Tokenizer(folder, backend, bos, eos, pad, mask, backend.get_vocab_size(), frozenset(special))


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    json_file, sentencepiece_file = path / "tokenizer.json", path / "sentencepiece.bpe.model"
    if not json_file.exists() and sentencepiece_file.exists():
        return tokenizer_of_sentencepiece(sentencepiece_file)
    try:
        if not json_file.exists():
            raise FileNotFoundError("there is neither tokenizer.json nor sentencepiece.bpe.model")
        return tokenizers.Tokenizer.from_file(str(json_file))
    except Exception as error:  # tokenizers raises plain Exception for a file that it cannot read
        first_line = str(error).strip().split("\n")[0]
        raise UserError(f"no tokenizer can be read from {path} (model.text.tokenizer): {first_line}") from error


def _named_tokens(path: Path) -> dict[str, str]:
    """Role (`bos_token` ...) -> token, as the folder's settings name them; empty if it has none."""
    names = {}
    for file in (path / "special_tokens_map.json", path / "tokenizer_config.json"):
        for role, token in _read_settings(file).items():
            name = token.get("content") if isinstance(token, dict) else token
            if role in _USUAL_NAMES and isinstance(name, str):
                names[role] = name
    return names


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    return values if isinstance(values, dict) else {}
