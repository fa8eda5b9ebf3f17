"""Danish, captions only: two genders, adjectives take a -t in the neuter, the article is a suffix."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {  # indefinite, definite, neuter
    "circle": ("cirkel", "cirklen", False),
    "square": ("kvadrat", "kvadratet", True),
    "triangle": ("trekant", "trekanten", False),
    "star": ("stjerne", "stjernen", False),
    "heart": ("hjerte", "hjertet", True),
    "cross": ("kors", "korset", True),
    "ring": ("ring", "ringen", False),
    "moon": ("måne", "månen", False),
    None: ("ting", "tingen", False),
}
_COLOURS = {  # common, neuter
    "red": ("rød", "rødt"),
    "orange": ("orange", "orange"),
    "yellow": ("gul", "gult"),
    "green": ("grøn", "grønt"),
    "blue": ("blå", "blåt"),
    "purple": ("lilla", "lilla"),
    "black": ("sort", "sort"),
    "white": ("hvid", "hvidt"),
}
_SIZES = {"small": ("lille", "lille"), "large": ("stor", "stort")}
_AT = {
    "top left": ("øverst til venstre", "i øverste venstre hjørne"),
    "top right": ("øverst til højre", "i øverste højre hjørne"),
    "bottom left": ("nederst til venstre", "i nederste venstre hjørne"),
    "bottom right": ("nederst til højre", "i nederste højre hjørne"),
    "middle": ("i midten", "i centrum"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun, definite, neuter = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour][neuter] if mention.colour else ""
    size = _SIZES[mention.size][neuter] if mention.size else ""
    article = "et" if neuter else "en"
    return {"a": words(article, size, colour, noun), "the0": definite, "colour": colour, "size": size,
            "at": place(mention, _AT, rng)}  # fmt: skip


DANISH = Language(
    code="da",
    name="Dansk",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" og "),
        Pattern("{a} {at}", lead="der er ", last=" og "),
        Pattern("{a} {at}", lead="billedet viser ", last=" og "),
        Pattern("{at} ses {a}", last=" og ", needs=("place",)),
        Pattern("{the0} {at} er {size} og {colour}", last=", ", needs=("place", "size", "colour")),
    ),
)
