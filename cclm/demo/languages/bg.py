"""Bulgarian, captions only: three genders, no cases, the article is a suffix."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {  # indefinite, definite, gender
    "circle": ("кръг", "кръгът", 0),
    "square": ("квадрат", "квадратът", 0),
    "triangle": ("триъгълник", "триъгълникът", 0),
    "star": ("звезда", "звездата", 1),
    "heart": ("сърце", "сърцето", 2),
    "cross": ("кръст", "кръстът", 0),
    "ring": ("пръстен", "пръстенът", 0),
    "moon": ("луна", "луната", 1),
    None: ("нещо", "нещото", 2),
}
_COLOURS = {  # masculine, feminine, neuter
    "red": ("червен", "червена", "червено"),
    "orange": ("оранжев", "оранжева", "оранжево"),
    "yellow": ("жълт", "жълта", "жълто"),
    "green": ("зелен", "зелена", "зелено"),
    "blue": ("син", "синя", "синьо"),
    "purple": ("лилав", "лилава", "лилаво"),
    "black": ("черен", "черна", "черно"),
    "white": ("бял", "бяла", "бяло"),
}
_SIZES = {"small": ("малък", "малка", "малко"), "large": ("голям", "голяма", "голямо")}
_AT = {
    "top left": ("горе вляво", "в горния ляв ъгъл"),
    "top right": ("горе вдясно", "в горния десен ъгъл"),
    "bottom left": ("долу вляво", "в долния ляв ъгъл"),
    "bottom right": ("долу вдясно", "в долния десен ъгъл"),
    "middle": ("в средата", "в центъра"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun, definite, gender = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour][gender] if mention.colour else ""
    size = _SIZES[mention.size][gender] if mention.size else ""
    return {"a": words(size, colour, noun), "the0": definite, "colour": colour, "size": size,
            "at": place(mention, _AT, rng)}  # fmt: skip


BULGARIAN = Language(
    code="bg",
    name="Български",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" и "),
        Pattern("{at} има {a}", last=" и ", needs=("place",)),
        Pattern("{a} {at}", lead="на картината има ", last=" и "),
        Pattern("{at} се вижда {a}", last=" и ", needs=("place",)),
        Pattern("{the0} {at} е {size} и {colour}", last=", ", needs=("place", "size", "colour")),
    ),
)
