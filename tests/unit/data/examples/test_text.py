"""Cleaning against the published code's own results, and the tokenizer."""

import io
import json
import shutil
from pathlib import Path

import pytest
import tokenizers
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

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
    assert ids == AutoTokenizer.from_pretrained(tokenizer.folder)(text)["input_ids"]
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


# Folders as XLM-R is published in: one file, the other, both, with and without settings.


def test_tokenizer_json_alone_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    shutil.copy(Path(tokenizer.folder) / "tokenizer.json", tmp_path)
    alone = load_tokenizer(str(tmp_path))
    assert alone.ids("a red ball", 40) == tokenizer.ids("a red ball", 40)
    assert (alone.bos, alone.eos, alone.pad, alone.mask) == (0, 2, 1, tokenizer.mask)
    assert alone.special == tokenizer.special and alone.vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize("settings", [None, {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}])
def test_rules_and_special_ids_are_those_of_tokenizer_json(tmp_path: Path, settings: dict[str, object] | None) -> None:
    """transformers drops the file's normalizer for such a folder, and takes id 3 for <unk>."""
    pieces = ["<s>", "<unk>", "</s>", "<pad>", "\u2581red", "\u2581circle", "\u2581"]
    built = tokenizers.Tokenizer(models.Unigram([(piece, -1.0 - i) for i, piece in enumerate(pieces)], unk_id=1))
    built.normalizer, built.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    built.add_special_tokens([*pieces[:4], "<mask>"])
    built.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.ids("\uff52\uff45\uff44 circle", 40) == [0, 4, 5, 2]  # full-width letters
    assert (loaded.pad, loaded.mask, loaded.vocab_size) == (3, 7, 8) and loaded.ordinary_ids == [4, 5, 6]
    assert loaded.ids("\u0416", 40)[1:-1][-1] == 1


def test_settings_may_name_other_special_tokens(tmp_path: Path) -> None:
    built = tokenizers.Tokenizer(models.Unigram([("<u>", 0.0), ("\u2581a", -1.0)], unk_id=0))
    built.pre_tokenizer = pre_tokenizers.Metaspace()
    built.add_special_tokens(["[B]", "[E]", "[P]", "[M]"])
    built.save(str(tmp_path / "tokenizer.json"))
    names = {"cls_token": "[B]", "sep_token": {"content": "[E]"}, "pad_token": "[P]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    with pytest.raises(UserError, match="has no <mask>; an XLM-R tokenizer is needed"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": "[M]"}))
    loaded = load_tokenizer(str(tmp_path))
    assert (loaded.ids("a", 9), loaded.pad, loaded.mask) == ([2, 1, 3], 4, 5)


def _sentencepiece(folder: Path, **options: object) -> SentencePieceProcessor:
    """A model trained on sentences of this project's kind."""
    words = "red round ball old house near the yellow window \u306d\u3053 \u4e16\u754c caf\u00e9 und ein Hund".split()
    lines = [" ".join(words[(i * k) % len(words)] for k in range(1, 8)) for i in range(1, 300)]
    model = io.BytesIO()
    settings = {"vocab_size": 90, "model_type": "unigram", "hard_vocab_limit": False, "minloglevel": 2} | options
    SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **settings)
    (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    return SentencePieceProcessor(model_proto=model.getvalue())


TEXTS = [
    "a red ball",
    "  the  old   house ",
    "\uff52\uff45\uff44 \u30cd\u30b3 caf\u00e9 cafe\u0301",
    "\u4e16\u754c\u306d\u3053",
    "xyzzy \U0001f600 \u0416\u0416",
    "near\tthe\nwindow\u3000Hund",
    "unknown\u2581mark",
]


@pytest.mark.parametrize(
    "options",
    [{}, {"split_by_whitespace": False}, {"add_dummy_prefix": False}, {"remove_extra_whitespaces": False}],
    ids=lambda options: "-".join(options),
)
def test_a_sentencepiece_model_alone_gives_its_own_pieces(tmp_path: Path, options: dict[str, object]) -> None:
    model = _sentencepiece(tmp_path, **options)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.vocab_size == model.vocab_size() + 2 and loaded.mask == loaded.vocab_size - 1
    assert (loaded.bos, loaded.pad, loaded.eos) == (0, 1, 2)
    for text in TEXTS:
        expected = [number + 1 if number else 3 for number in model.encode(text)]  # <unk> is 0 there, 3 in XLM-R
        assert loaded.ids(text, 80) == [0, *expected, 2], text
    assert loaded.ids("ball <mask> house", 40).count(loaded.mask) == 1
    with pytest.raises(EmptyTextError):
        loaded.ids("", 40)


def test_other_sentencepiece_models_are_refused(tmp_path: Path) -> None:
    _sentencepiece(tmp_path, model_type="bpe")
    with pytest.raises(UserError, match="is no unigram model without bytes; put its tokenizer.json there"):
        load_tokenizer(str(tmp_path))
    _sentencepiece(tmp_path, user_defined_symbols=["<x>"])
    with pytest.raises(UserError, match="its pieces are not <unk>, <s>, </s>"):
        load_tokenizer(str(tmp_path))
    file = tmp_path / "sentencepiece.bpe.model"
    for damaged in (b"version https://git-lfs.github.com/spec/v1\n", file.read_bytes()[:-7], b""):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="is no SentencePiece model"):
            load_tokenizer(str(tmp_path))
