"""A SentencePiece model, as XLM-R is published with, becomes a tokenizer of the package `tokenizers`.

The file is a protocol buffer (`sentencepiece_model.proto` of github.com/google/sentencepiece). The few fields that
count here are read directly, which needs neither that package nor protobuf.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from cclm.errors import UserError

WORD_MARK = "\u2581"
"""Stands where a space stood: a token that begins with it starts a word."""

# Numbers of fields, and their values.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_MODEL_TYPE, _UNIGRAM, _BYTE_FALLBACK = 3, 1, 35
_CHARACTER_MAP, _ADD_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers

Fields = dict[int, list[int | bytes]]
"""Number of a field -> its values, in the order of the file: whole numbers, or bytes of anything else."""


class _Piece(NamedTuple):
    text: str
    score: float
    kind: int


def tokenizer_of_sentencepiece(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a `sentencepiece.bpe.model`, with the ids of XLM-R.

    Those are `<s>`, `<pad>`, `</s>`, `<unk>`, the pieces of the file from the fourth on, `<mask>`.

    Raises:
        UserError: the file is no SentencePiece model, or one that XLM-R's rules do not cover.
    """
    try:
        fields = _fields(path.read_bytes())
        pieces = [_piece(_fields(_bytes(value))) for value in fields[_PIECES]]
        if not pieces:
            raise ValueError("it holds no pieces")
        trainer, normalizer = (_message(fields, number) for number in (_TRAINER, _NORMALIZER))
    except (ValueError, IndexError, struct.error) as error:
        raise UserError(f"{path} is no SentencePiece model ({error}); fetch it again") from None
    kinds = [piece.kind for piece in pieces]
    if kinds[:3] != [_UNKNOWN, _CONTROL, _CONTROL] or set(kinds[3:]) != {_NORMAL}:
        _refuse(path, "its pieces are not <unk>, <s>, </s> and then plain ones alone")
    if _number(trainer, _MODEL_TYPE, _UNIGRAM) != _UNIGRAM or _number(trainer, _BYTE_FALLBACK, 0):
        _refuse(path, "it is no unigram model without bytes")
    if not _number(normalizer, _ESCAPE_SPACES, 1):
        _refuse(path, "it leaves spaces as they are")
    has_prefix = bool(_number(normalizer, _ADD_PREFIX, 1))
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    plain = [(piece.text, piece.score) for piece in pieces[3:]]
    vocabulary = [*((name, 0.0) for name in special), *plain, ("<mask>", 0.0)]
    built = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    built.normalizer = _normalizer(normalizer, has_prefix)
    # Where no piece reaches beyond a word, splitting into words gives the same pieces, and lets words be cached.
    by_word = not any(WORD_MARK in piece.text[1:] for piece in pieces)
    built.pre_tokenizer = pre_tokenizers.Metaspace(WORD_MARK, prepend_scheme="never", split=by_word)
    built.decoder = decoders.Metaspace(WORD_MARK, prepend_scheme="always" if has_prefix else "never")
    built.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    mask = AddedToken("<mask>", lstrip=True, normalized=False, special=True)
    built.add_special_tokens([*(AddedToken(name, normalized=False, special=True) for name in special), mask])
    return built


def _normalizer(settings: Fields, has_prefix: bool) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if characters := _bytes(settings.get(_CHARACTER_MAP, [b""])[-1]):
        steps.append(normalizers.Precompiled(characters))
    if _number(settings, _REMOVE_SPACES, 1):  # removes spaces only, no other white space
        steps.append(normalizers.Replace(tokenizers.Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
    steps.append(normalizers.Replace(" ", WORD_MARK))
    if has_prefix:  # not by Metaspace, which adds none to a text that begins with a mark
        steps.append(normalizers.Prepend(WORD_MARK))
    return normalizers.Sequence(steps)


def _refuse(path: Path, reason: str) -> None:
    raise UserError(
        f"{path} is a SentencePiece model that is not of XLM-R's kind: {reason}; put its tokenizer.json there"
    )


def _piece(fields: Fields) -> _Piece:
    [score] = struct.unpack("<f", _bytes(fields[_PIECE_SCORE][-1])) if _PIECE_SCORE in fields else [0.0]
    return _Piece(_bytes(fields[_PIECE_TEXT][-1]).decode("utf-8"), score, _number(fields, _PIECE_TYPE, _NORMAL))


def _message(fields: Fields, number: int) -> Fields:
    """A message in a field; empty if it is not there."""
    return _fields(_bytes(fields.get(number, [b""])[-1]))


def _number(fields: Fields, number: int, default: int) -> int:
    value = fields.get(number, [default])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no number")
    return value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field that is a number is not expected to be one")
    return value


def _fields(data: bytes) -> Fields:
    """The fields of a message of protocol buffers. Raises ValueError or IndexError if it is none."""
    fields: Fields = defaultdict(list)
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, at = _varint(data, at)
            fields[number].append(value)
            continue
        if wire_type == _BYTES:
            size, at = _varint(data, at)
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"there is no wire type {wire_type}")
        if at + size > len(data):
            raise ValueError("it ends too early")
        fields[number].append(data[at : at + size])
        at += size
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of variable length, and where the next byte lies."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1
