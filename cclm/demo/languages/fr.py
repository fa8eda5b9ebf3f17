"""French: gender agreement, size before and colour after the noun, l' before a vowel."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {
    "circle": ("cercle", "m"),
    "square": ("carré", "m"),
    "triangle": ("triangle", "m"),
    "star": ("étoile", "f"),
    "heart": ("cœur", "m"),
    "cross": ("croix", "f"),
    "ring": ("anneau", "m"),
    "moon": ("lune", "f"),
    None: ("objet", "m"),
}
_ADJECTIVES = {  # masculine, feminine
    "red": ("rouge", "rouge"),
    "orange": ("orange", "orange"),
    "yellow": ("jaune", "jaune"),
    "green": ("vert", "verte"),
    "blue": ("bleu", "bleue"),
    "purple": ("violet", "violette"),
    "black": ("noir", "noire"),
    "white": ("blanc", "blanche"),
    "small": ("petit", "petite"),
    "large": ("grand", "grande"),
}
_AT = {
    "top left": ("en haut à gauche", "dans le coin supérieur gauche"),
    "top right": ("en haut à droite", "dans le coin supérieur droit"),
    "bottom left": ("en bas à gauche", "dans le coin inférieur gauche"),
    "bottom right": ("en bas à droite", "dans le coin inférieur droit"),
    "middle": ("au milieu", "au centre"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun, gender = _NOUNS[mention.shape]
    column = "mf".index(gender)
    colour = _ADJECTIVES[mention.colour][column] if mention.colour else ""
    size = _ADJECTIVES[mention.size][column] if mention.size else ""
    the0 = f"l'{noun}" if noun[0] in "aeéio" else words(("le", "la")[column], noun)
    return {
        "a": words(("un", "une")[column], size, noun, colour),
        "bare": words(size, noun, colour),
        "of": words("de", size, noun, colour) if size or noun[0] not in "aeéio" else f"d'{words(noun, colour)}",
        "the": words(the0, colour),
        "the0": the0,
        "colour": colour,
        "size": size,
        "small": _ADJECTIVES["small"][column],
        "large": _ADJECTIVES["large"][column],
        "at": place(mention, _AT, rng),
    }


FRENCH = Language(
    code="fr",
    name="français",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" et "),
        Pattern("{a} {at}", lead="il y a ", last=" et "),
        Pattern("{a} {at}", lead="on voit ", last=" et "),
        Pattern("{a} {at}", lead="une image avec ", last=" et "),
        Pattern("{at} {a}", last=" et ", needs=("place",)),
        Pattern("{at} il y a {a}", last=" et ", needs=("place",)),
        Pattern("{the0} {at} est {colour} et {size}", last=" et ", needs=("place", "size", "colour")),
    ),
    templates={
        "region": ("{a}", "{bare}"),
        "attribute": ("{colour}",),
        "exists": ("il y a {a}", "l'image montre {a}", "on voit {a}"),
        "exists_at": ("il y a {a} {at}", "{at} il y a {a}"),
        "absent": ("il n'y a pas {of}", "on ne voit pas {of}"),
        "is_colour": ("{the0} est {colour}", "sur l'image {the0} est {colour}"),
        "is_size": ("{the} est {size}",),
        "is_at": ("{the} est {at}", "{the} se trouve {at}"),
        "made_of": ("{the} est en {material}", "sur l'image {the} est en {material}"),
        "q_colour": ("de quelle couleur est {the0}", "quelle couleur a {the0}"),
        "q_colour_at": ("de quelle couleur est {the0} {at}",),
        "q_shape": ("quelle forme a {the}",),
        "q_shape_at": ("quelle forme est {at}", "qu'est-ce qui est {at}"),
        "q_size": ("est-ce que {the} est {small} ou {large}", "quelle taille a {the}"),
        "q_where": ("où est {the}", "où se trouve {the}"),
        "q_exists": ("y a-t-il {a}", "est-ce que l'image montre {a}"),
        "q_count": ("combien d'objets y a-t-il", "combien d'objets montre l'image"),
        "pair_left": ("l'image de gauche montre {a}", "il y a {a} sur l'image de gauche"),
        "pair_right": ("l'image de droite montre {a}", "il y a {a} sur l'image de droite"),
        "pair_both": ("les deux images montrent {a}", "il y a {a} sur les deux images"),
        "pair_two": (
            "l'image de gauche montre {a} et l'image de droite montre {a2}",
            "il y a {a} sur l'image de gauche et {a2} sur celle de droite",
        ),
    },
    materials={"wood": "bois", "paper": "papier", "glass": "verre", "metal": "métal"},
    counts=("il y a un objet", "il y a deux objets", "il y a trois objets"),
    query=" ?",
    shape_names={shape: noun for shape, (noun, _) in _NOUNS.items() if shape},
)
