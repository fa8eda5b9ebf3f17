"""Czech, captions only: three genders, adjectives agree; everything stands in the nominative."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {
    "circle": ("kruh", "m"),
    "square": ("čtverec", "m"),
    "triangle": ("trojúhelník", "m"),
    "star": ("hvězda", "f"),
    "heart": ("srdce", "n"),
    "cross": ("kříž", "m"),
    "ring": ("prsten", "m"),
    "moon": ("měsíc", "m"),
    None: ("věc", "f"),
}
_COLOURS = {
    "red": "červen",
    "orange": "oranžov",
    "yellow": "žlut",
    "green": "zelen",
    "blue": "modr",
    "purple": "fialov",
    "black": "čern",
    "white": "bíl",
}
_SIZES = {"small": "mal", "large": "velk"}
_ENDING = {"m": "ý", "f": "á", "n": "é"}
_AT = {
    "top left": ("vlevo nahoře", "v levém horním rohu"),
    "top right": ("vpravo nahoře", "v pravém horním rohu"),
    "bottom left": ("vlevo dole", "v levém dolním rohu"),
    "bottom right": ("vpravo dole", "v pravém dolním rohu"),
    "middle": ("uprostřed", "ve středu"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun, gender = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour] + _ENDING[gender] if mention.colour else ""
    size = _SIZES[mention.size] + _ENDING[gender] if mention.size else ""
    return {"a": words(size, colour, noun), "the0": noun, "colour": colour, "size": size,
            "at": place(mention, _AT, rng)}  # fmt: skip


CZECH = Language(
    code="cs",
    name="Čeština",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" a "),
        Pattern("{at} je {a}", last=" a ", needs=("place",)),
        Pattern("{a} {at}", lead="na obrázku je ", last=" a "),
        Pattern("{at} je vidět {a}", last=" a ", needs=("place",)),
        Pattern("{the0} {at} je {size} a {colour}", last=", ", needs=("place", "size", "colour")),
    ),
)
