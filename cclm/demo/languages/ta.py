"""Tamil, statements about two pictures only: verb last, places as case endings."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, words

_NOUNS = {
    "circle": "வட்டம்",
    "square": "சதுரம்",
    "triangle": "முக்கோணம்",
    "star": "நட்சத்திரம்",
    "heart": "இதயம்",
    "cross": "சிலுவை",
    "ring": "வளையம்",
    "moon": "நிலா",
    None: "பொருள்",
}
_COLOURS = {
    "red": "சிவப்பு",
    "orange": "ஆரஞ்சு",
    "yellow": "மஞ்சள்",
    "green": "பச்சை",
    "blue": "நீல",
    "purple": "ஊதா",
    "black": "கருப்பு",
    "white": "வெள்ளை",
}


def _forms(mention: Mention, rng: Random) -> Forms:
    return {"a": words("ஒரு", _COLOURS[mention.colour] if mention.colour else "", _NOUNS[mention.shape])}


TAMIL = Language(
    code="ta",
    name="தமிழ்",
    forms=_forms,
    templates={
        "pair_left": ("இடது படத்தில் {a} உள்ளது", "இடது படத்தில் {a} இருக்கிறது"),
        "pair_right": ("வலது படத்தில் {a} உள்ளது", "வலது படத்தில் {a} இருக்கிறது"),
        "pair_both": ("இரண்டு படங்களிலும் {a} உள்ளது", "இரண்டு படங்களிலும் {a} இருக்கிறது"),
        "pair_two": ("இடது படத்தில் {a}, வலது படத்தில் {a2} உள்ளன",),
    },
    shape_names={shape: noun for shape, noun in _NOUNS.items() if shape},
)
