"""German: adjective endings by gender, case and article; the verb comes second."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {
    "circle": ("Kreis", "m"),
    "square": ("Quadrat", "n"),
    "triangle": ("Dreieck", "n"),
    "star": ("Stern", "m"),
    "heart": ("Herz", "n"),
    "cross": ("Kreuz", "n"),
    "ring": ("Ring", "m"),
    "moon": ("Mond", "m"),
    None: ("Ding", "n"),
}
_COLOURS = {
    "red": "rot",
    "orange": "orangefarben",
    "yellow": "gelb",
    "green": "grün",
    "blue": "blau",
    "purple": "violett",
    "black": "schwarz",
    "white": "weiß",
}
_SIZES = {"small": "klein", "large": "groß"}
_AT = {
    "top left": ("oben links", "in der linken oberen Ecke"),
    "top right": ("oben rechts", "in der rechten oberen Ecke"),
    "bottom left": ("unten links", "in der linken unteren Ecke"),
    "bottom right": ("unten rechts", "in der rechten unteren Ecke"),
    "middle": ("in der Mitte", "im Zentrum"),
}
# (article, adjective ending) by case and gender; no noun here is feminine.
_INDEFINITE = {
    "a": {"m": ("ein", "er"), "n": ("ein", "es")},
    "acc": {"m": ("einen", "en"), "n": ("ein", "es")},
    "dat": {"m": ("einem", "en"), "n": ("einem", "en")},
    "no": {"m": ("kein", "er"), "n": ("kein", "es")},
    "noacc": {"m": ("keinen", "en"), "n": ("kein", "es")},
}
_DEFINITE = {"the": {"m": ("der", "e"), "n": ("das", "e")}}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun, gender = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour] if mention.colour else ""
    size = _SIZES[mention.size] if mention.size else ""
    forms = {"colour": colour, "size": size, "at": place(mention, _AT, rng)}
    for case, by_gender in (_INDEFINITE | _DEFINITE).items():
        article, ending = by_gender[gender]
        adjectives = [colour] if case == "the" else [size, colour]
        forms[case] = words(article, *(adjective + ending for adjective in adjectives if adjective), noun)
    forms["the0"] = f"{_DEFINITE['the'][gender][0]} {noun}"
    return forms


GERMAN = Language(
    code="de",
    name="Deutsch",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" und "),
        Pattern("{at} {acc}", lead="man sieht ", last=" und ", needs=("place",)),
        Pattern("{acc} {at}", lead="das Bild zeigt ", last=" und "),
        Pattern("{dat} {at}", lead="ein Bild mit ", last=" und "),
        Pattern("{acc} {at}", lead="es gibt ", last=" und "),
        Pattern("{at} ist {a}", last=" und ", needs=("place",)),
        Pattern("{the0} {at} ist {colour} und {size}", last=" und ", needs=("place", "size", "colour")),
    ),
    templates={
        "region": ("{a}",),
        "attribute": ("{colour}",),
        "exists": ("es gibt {acc}", "auf dem Bild ist {a}", "man sieht {acc}"),
        "exists_at": ("{at} ist {a}", "es gibt {acc} {at}"),
        "absent": ("es gibt {noacc}", "auf dem Bild ist {no}"),
        "is_colour": ("{the0} ist {colour}", "{the0} auf dem Bild ist {colour}"),
        "is_size": ("{the} ist {size}",),
        "is_at": ("{the} ist {at}", "{at} ist {the}"),
        "made_of": ("{the} ist aus {material}", "{the} auf dem Bild besteht aus {material}"),
        "q_colour": ("welche Farbe hat {the0}", "wie ist {the0} gefärbt"),
        "q_colour_at": ("welche Farbe hat {the0} {at}",),
        "q_shape": ("welche Form hat {the}",),
        "q_shape_at": ("was ist {at}", "welche Form ist {at}"),
        "q_size": ("ist {the} klein oder groß", "wie groß ist {the}"),
        "q_where": ("wo ist {the}", "an welcher Stelle ist {the}"),
        "q_exists": ("gibt es {acc}", "zeigt das Bild {acc}"),
        "q_count": ("wie viele Dinge gibt es", "wie viele Dinge zeigt das Bild"),
        "pair_left": ("das linke Bild zeigt {acc}", "auf dem linken Bild ist {a}"),
        "pair_right": ("das rechte Bild zeigt {acc}", "auf dem rechten Bild ist {a}"),
        "pair_both": ("beide Bilder zeigen {acc}", "auf beiden Bildern ist {a}"),
        "pair_two": (
            "das linke Bild zeigt {acc} und das rechte Bild zeigt {acc2}",
            "auf dem linken Bild ist {a} und auf dem rechten {a2}",
        ),
    },
    materials={"wood": "Holz", "paper": "Papier", "glass": "Glas", "metal": "Metall"},
    counts=("es gibt ein Ding", "es gibt zwei Dinge", "es gibt drei Dinge"),
    shape_names={shape: noun for shape, (noun, _) in _NOUNS.items() if shape},
)
