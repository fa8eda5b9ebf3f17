"""Korean, captions and questions: verb last, particles that depend on whether a word ends in a consonant."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {
    "circle": "원",
    "square": "정사각형",
    "triangle": "삼각형",
    "star": "별",
    "heart": "하트",
    "cross": "십자가",
    "ring": "고리",
    "moon": "달",
    None: "물체",
}
_COLOURS = {  # before a noun; as a noun of its own
    "red": ("빨간", "빨간색"),
    "orange": ("주황색", "주황색"),
    "yellow": ("노란", "노란색"),
    "green": ("초록색", "초록색"),
    "blue": ("파란", "파란색"),
    "purple": ("보라색", "보라색"),
    "black": ("검은", "검은색"),
    "white": ("하얀", "하얀색"),
}
_SIZES = {"small": ("작은", "작고"), "large": ("큰", "크고")}  # before a noun; joining
_AT = {
    "top left": ("왼쪽 위에", "왼쪽 위 모서리에"),
    "top right": ("오른쪽 위에", "오른쪽 위 모서리에"),
    "bottom left": ("왼쪽 아래에", "왼쪽 아래 모서리에"),
    "bottom right": ("오른쪽 아래에", "오른쪽 아래 모서리에"),
    "middle": ("가운데에", "중앙에"),
}
_FIRST_SYLLABLE, _FINALS = 0xAC00, 28  # Hangul syllables: every 28th has no final consonant


def _with(word: str, after_consonant: str, after_vowel: str) -> str:
    has_final = (ord(word[-1]) - _FIRST_SYLLABLE) % _FINALS != 0
    return word + (after_consonant if has_final else after_vowel)


def _forms(mention: Mention, rng: Random) -> Forms:
    noun = _NOUNS[mention.shape]
    before, colour = _COLOURS[mention.colour] if mention.colour else ("", "")
    size, joining = _SIZES[mention.size] if mention.size else ("", "")
    a, the = words(size, before, noun), words(before, noun)
    return {
        "a": a,
        "a_is": _with(a, "이", "가"),
        "the_is": _with(the, "은", "는"),
        "the0_is": _with(noun, "은", "는"),
        "the0_of": f"{noun}의",
        "the_of": f"{the}의",
        "colour": colour,
        "size_and": joining,
        "at": place(mention, _AT, rng),
    }


KOREAN = Language(
    code="ko",
    name="한국어",
    forms=_forms,
    captions=(
        Pattern("{at} {a_is}", tail=" 있습니다", last=", ", needs=("place",)),
        Pattern("{at} {a_is}", lead="그림에는 ", tail=" 있습니다", last=", ", needs=("place",)),
        Pattern("{at} {a_is}", tail=" 보입니다", last=", ", needs=("place",)),
        Pattern("{at} {a_is} 있고", tail=" 있는 그림", last=", ", needs=("place",)),
        Pattern("{at} 있는 {the0_is} {size_and} {colour}", tail="입니다", last=", ", needs=("place", "size", "colour")),
    ),
    templates={
        "q_colour": ("{the0_is} 무슨 색입니까", "{the0_of} 색은 무엇입니까"),
        "q_colour_at": ("{at} 있는 {the0_is} 무슨 색입니까",),
        "q_shape": ("{the_is} 무슨 모양입니까", "{the_of} 모양은 무엇입니까"),
        "q_shape_at": ("{at} 무엇이 있습니까", "{at} 어떤 모양이 있습니까"),
        "q_size": ("{the_is} 작습니까 큽니까", "{the_of} 크기는 어떻습니까"),
        "q_where": ("{the_is} 어디에 있습니까",),
        "q_exists": ("{a_is} 있습니까", "그림에 {a_is} 있습니까"),
        "q_count": ("물체가 몇 개 있습니까", "그림에 물체가 몇 개 있습니까"),
    },
)
