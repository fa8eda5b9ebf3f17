"""Swahili, statements about two pictures only: noun classes show in the connective (wa, ya, la, cha)."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, words

_NOUNS = {
    "circle": ("duara", "la"),
    "square": ("mraba", "wa"),
    "triangle": ("pembetatu", "ya"),
    "star": ("nyota", "ya"),
    "heart": ("moyo", "wa"),
    "cross": ("msalaba", "wa"),
    "ring": ("pete", "ya"),
    "moon": ("mwezi", "wa"),
    None: ("kitu", "cha"),
}
_COLOURS = {  # "of red colour": the adjectives agree with rangi
    "red": "rangi nyekundu",
    "orange": "rangi ya machungwa",
    "yellow": "rangi ya njano",
    "green": "rangi ya kijani",
    "blue": "rangi ya bluu",
    "purple": "rangi ya zambarau",
    "black": "rangi nyeusi",
    "white": "rangi nyeupe",
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun, of = _NOUNS[mention.shape]
    return {"a": words(noun, of, _COLOURS[mention.colour]) if mention.colour else noun}


SWAHILI = Language(
    code="sw",
    name="Kiswahili",
    forms=_forms,
    templates={
        "pair_left": ("picha ya kushoto inaonyesha {a}", "kuna {a} kwenye picha ya kushoto"),
        "pair_right": ("picha ya kulia inaonyesha {a}", "kuna {a} kwenye picha ya kulia"),
        "pair_both": ("picha zote mbili zinaonyesha {a}", "kuna {a} kwenye picha zote mbili"),
        "pair_two": (
            "picha ya kushoto inaonyesha {a} na picha ya kulia inaonyesha {a2}",
            "kuna {a} kwenye picha ya kushoto na {a2} kwenye picha ya kulia",
        ),
    },
    shape_names={shape: noun for shape, (noun, _) in _NOUNS.items() if shape},
)
