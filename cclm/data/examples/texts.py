"""Texts of annotations become token ids: cleaned, cut, tokenized. Fine-tuning and evaluation share these rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cclm.data.annotations.annotation_sets import RetrievalSet
from cclm.data.cleaning import EmptyTextError, clean_caption, clean_question
from cclm.data.examples.tokenizer import Tokenizer
from cclm.errors import UserError


@dataclass(frozen=True, slots=True)
class TextRules:
    """How texts are cleaned and cut."""

    max_words: int
    max_tokens: int
    questions: bool
    """Questions have cleaning rules of their own, and may be empty."""

    def ids(self, text: str, tokenizer: Tokenizer, place: str) -> list[int]:
        """Token ids `<s> ... </s>`.

        Raises:
            UserError: cleaning leaves nothing of a sentence. The message begins with `place`.
        """
        if self.questions:
            cleaned = clean_question(text, self.max_words)
            try:
                return tokenizer.ids(cleaned, self.max_tokens)
            except EmptyTextError:
                return [tokenizer.bos, tokenizer.eos]
        try:
            return tokenizer.ids(clean_caption(text, self.max_words), self.max_tokens)
        except EmptyTextError as error:
            raise UserError(f"{place}: {text[:40]!r}: {error}; remove the entry from the file") from None


def caption_ids(
    dataset: RetrievalSet, texts: Sequence[int], tokenizer: Tokenizer, max_words: int, max_tokens: int
) -> list[list[int]]:
    """Token ids of the captions numbered `texts` of a set, cleaned.

    Raises:
        UserError: cleaning leaves nothing of a caption.
    """
    return [_caption_ids(dataset, text, tokenizer, max_words, max_tokens) for text in texts]


def clean_set_caption(dataset: RetrievalSet, text: int, max_words: int) -> str:
    """Caption number `text` of a set as the model reads it.

    Raises:
        UserError: cleaning leaves nothing of it, unless the set uses such captions uncleaned.
    """
    caption = dataset.texts[text]
    try:
        return clean_caption(caption, max_words)
    except EmptyTextError as error:
        if dataset.uncleaned_if_empty:
            return caption
        raise _empty(dataset, text, error) from None


def _caption_ids(dataset: RetrievalSet, text: int, tokenizer: Tokenizer, max_words: int, max_tokens: int) -> list[int]:
    try:
        return tokenizer.ids(clean_set_caption(dataset, text, max_words), max_tokens)
    except EmptyTextError as error:
        raise _empty(dataset, text, error) from None


def _empty(dataset: RetrievalSet, text: int, error: EmptyTextError) -> UserError:
    place = dataset.image_places[dataset.image_of_text[text]]
    return UserError(f"{place}, caption {dataset.texts[text][:40]!r}: {error}; remove it from the file")
