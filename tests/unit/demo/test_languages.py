"""Ten grammars: everything renders, and agreement is right where a language has it."""

from itertools import product
from random import Random

import demo_reading as reading
import pytest

from cclm.demo.languages import LANGUAGES
from cclm.demo.languages.base import COLOURS, KINDS, MATERIALS, PAIR_STATEMENTS, PLACES, SHAPES, SIZES, Mention


def test_ten_languages_in_a_fixed_order() -> None:
    assert list(LANGUAGES) == ["en", "de", "fr", "es", "id", "tr", "ru", "zh", "ja", "ar"]
    assert all(set(language.templates) == set(KINDS) for language in LANGUAGES.values())
    assert all(set(language.materials) == set(MATERIALS) for language in LANGUAGES.values())


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_combination_reads_back(code: str) -> None:
    language, rng = LANGUAGES[code], Random(1)
    for combination in product(SHAPES, COLOURS, SIZES, PLACES):
        text = language.caption([Mention(*combination)], rng)
        assert reading.things(code, text) == {combination}, text
        assert "{" not in text and "None" not in text and "  " not in text


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_kind_of_sentence_names_what_it_tells(code: str) -> None:
    language, rng = LANGUAGES[code], Random(2)
    second = Mention(shape="moon", colour="black")
    for kind, shape, colour in product((*KINDS, *PAIR_STATEMENTS), SHAPES, COLOURS):
        if kind.startswith("q_colour") or kind in ("q_shape", "q_shape_at", "attribute"):
            continue  # these leave facts out; the next test covers them
        text = language.say(kind, [Mention(shape, colour, None, "middle"), second], rng)
        expected_shapes = [shape, "moon"] if kind == "pair_two" else [shape] if kind != "q_count" else []
        assert reading.found(code, text, 0) == expected_shapes, text
        assert "{" not in text and "None" not in text


@pytest.mark.parametrize("code", LANGUAGES)
def test_questions_do_not_give_the_answer_away(code: str) -> None:
    language, rng = LANGUAGES[code], Random(3)
    for _ in range(10):
        assert not reading.found(code, language.say("q_colour", [Mention(shape="star")], rng), 1)
        assert not reading.found(code, language.say("q_colour_at", [Mention(place="middle")], rng), 1)
        assert not reading.found(code, language.say("q_shape", [Mention(colour="red")], rng), 0)
        assert not reading.found(code, language.say("q_shape_at", [Mention(place="middle")], rng), 0)
        assert reading.found(code, language.say("q_shape_at", [Mention(place="middle")], rng), 3) == ["middle"]
        assert not reading.found(code, language.say("q_where", [Mention("star", "red")], rng), 3)


def wordings(code: str, kind: str, mention: Mention) -> set[str]:
    return {LANGUAGES[code].say(kind, [mention], Random(seed)) for seed in range(40)}


@pytest.mark.parametrize(
    ("code", "kind", "mention", "expected"),
    [
        ("en", "region", Mention("star", "orange"), "an orange star"),
        ("de", "exists", Mention("star", "red", "small"), "es gibt einen kleinen roten Stern"),
        ("de", "exists", Mention("heart", "red", "small"), "auf dem Bild ist ein kleines rotes Herz"),
        ("de", "is_size", Mention("heart", "white", "large"), "das weiße Herz ist groß"),
        ("fr", "region", Mention("star", "white", "small"), "une petite étoile blanche"),
        ("fr", "region", Mention("square", "white", "small"), "un petit carré blanc"),
        ("fr", "is_colour", Mention("star", "green"), "l'étoile est verte"),
        ("es", "is_size", Mention("moon", "red", "small"), "la luna roja es pequeña"),
        ("es", "absent", Mention("star", "black"), "no hay ninguna estrella negra"),
        ("id", "is_colour", Mention("star", "red"), "bintang itu berwarna merah"),
        ("tr", "q_colour", Mention("heart"), "kalbin rengi ne"),
        ("ru", "exists", Mention("star", "blue", "large"), "мы видим большую синюю звезду"),
        ("ru", "absent", Mention("heart", "red"), "здесь нет красного сердца"),
        ("ru", "made_of", Mention("moon", "white"), "белая луна сделана из дерева"),
        ("zh", "exists", Mention("star", "red"), "图片里有一个红色的星星"),
        ("ja", "q_where", Mention("star", "red"), "赤い星はどこにありますか"),
        ("ar", "exists", Mention("star", "red"), "توجد نجمة حمراء"),
        ("ar", "exists", Mention("square", "red"), "تعرض الصورة مربعا أحمر"),
        ("ar", "is_size", Mention("star", "white", "small"), "النجمة البيضاء صغيرة"),
    ],
)
def test_agreement(code: str, kind: str, mention: Mention, expected: str) -> None:
    assert expected in wordings(code, kind, mention)


def test_captions_differ_in_wording_and_order() -> None:
    mentions = [Mention("star", "red", "small", "middle"), Mention("moon", "blue", "large", "top left")]
    for code, language in LANGUAGES.items():
        texts = {language.caption(mentions, Random(seed)) for seed in range(60)}
        assert len(texts) >= 20, code
        assert {reading.found(code, text, 0)[0] for text in texts} == {"star", "moon"}, code


def test_turkish_survives_lower_casing() -> None:
    """İ and I do not lower-case to what they came from, so no sentence may start with i or ı."""
    language = LANGUAGES["tr"]
    for seed in range(200):
        text = language.caption([Mention("ring", "red", "small", "middle")], Random(seed))
        assert language.sentence(text).lower() == text.lower() + "."
    assert all(language.sentence(language.count(n)).lower() == language.count(n) + "." for n in (1, 2, 3))
