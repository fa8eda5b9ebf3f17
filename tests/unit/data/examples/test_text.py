"""Cleaning against the published code's own results, and the tokenizer."""

import json
from pathlib import Path

import pytest

from cclm.data.cleaning import EmptyTextError, clean_caption, clean_question, is_visible
from cclm.data.examples.tokenizer import Tokenizer, load_tokenizer
from cclm.errors import UserError

GOLDEN = Path(__file__).parents[3] / "golden"


def test_every_golden_text_is_cleaned_as_published() -> None:
    entries = json.loads((GOLDEN / "extra.json").read_text())["text_cleaning"]
    assert len(entries) >= 70
    for entry in entries:
        assert clean_caption(entry["raw"], 30) == entry["caption_30"], entry
        assert clean_caption(entry["raw"], 5) == entry["caption_5"], entry
        assert clean_question(entry["raw"], 10) == entry["question_10"], entry


@pytest.mark.parametrize("text", ["", "  ", "...", "\n", "?!- /", "\t", "\u200b \ufeff"])
def test_a_caption_without_words_is_an_error(text: str) -> None:
    with pytest.raises(EmptyTextError):
        clean_caption(text, 30)
    assert not is_visible(clean_question(text, 30))


def test_persons_lose_their_brackets_in_captions_only() -> None:
    assert clean_caption("<PERSON> runs", 30) == "person runs"
    assert clean_question("<person> runs?", 30) == "<person> runs"


def test_ids_are_framed_and_cut(tokenizer: Tokenizer) -> None:
    text = "a red ball on the grass"
    ids = tokenizer.ids(text, 40)
    assert ids == tokenizer.hugging_face(text)["input_ids"]
    assert ids[0] == tokenizer.bos == 0 and ids[-1] == tokenizer.eos == 2
    assert tokenizer.ids(text, 6) == [*ids[:5], tokenizer.eos]
    with pytest.raises(EmptyTextError):
        tokenizer.ids("", 40)


def test_half_a_surrogate_pair_is_an_unknown_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.ids(json.loads('"dog \\ud83d"'), 40)[:2] == tokenizer.ids("dog", 40)[:2]
    assert tokenizer.ids(json.loads('"\\ud83d\\ude00"'), 40) == tokenizer.ids("\U0001f600", 40)


def test_word_starts_and_ordinary_ids(tokenizer: Tokenizer) -> None:
    ids = tokenizer.ids("a yellow house near a window", 40)
    assert sum(tokenizer.starts_word[i] for i in ids) == 6 + 2
    assert len(tokenizer.ordinary_ids) == tokenizer.vocab_size - 5
    assert not {tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.mask} & set(tokenizer.ordinary_ids)


def test_a_missing_or_useless_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist.*model.text.tokenizer"):
        load_tokenizer(str(tmp_path / "none"))
    with pytest.raises(UserError, match="no tokenizer can be read from"):
        load_tokenizer(str(tmp_path))
