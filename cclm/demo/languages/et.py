"""Estonian, captions only: no articles, no genders; everything stands in the nominative."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {
    "circle": "ring",
    "square": "ruut",
    "triangle": "kolmnurk",
    "star": "täht",
    "heart": "süda",
    "cross": "rist",
    "ring": "rõngas",
    "moon": "kuu",
    None: "asi",
}
_COLOURS = {
    "red": "punane",
    "orange": "oranž",
    "yellow": "kollane",
    "green": "roheline",
    "blue": "sinine",
    "purple": "lilla",
    "black": "must",
    "white": "valge",
}
_SIZES = {"small": "väike", "large": "suur"}
_AT = {
    "top left": ("üleval vasakul", "vasakus ülanurgas"),
    "top right": ("üleval paremal", "paremas ülanurgas"),
    "bottom left": ("all vasakul", "vasakus alanurgas"),
    "bottom right": ("all paremal", "paremas alanurgas"),
    "middle": ("keskel", "pildi keskel"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour] if mention.colour else ""
    size = _SIZES[mention.size] if mention.size else ""
    return {"a": words(size, colour, noun), "the0": noun, "colour": colour, "size": size,
            "at": place(mention, _AT, rng)}  # fmt: skip


ESTONIAN = Language(
    code="et",
    name="Eesti",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" ja "),
        Pattern("{at} on {a}", last=" ja ", needs=("place",)),
        Pattern("{at} {a}", lead="siin on ", last=" ja ", needs=("place",)),
        Pattern("{at} paistab {a}", last=" ja ", needs=("place",)),
        Pattern("{the0} {at} on {size} ja {colour}", last=", ", needs=("place", "size", "colour")),
    ),
)
