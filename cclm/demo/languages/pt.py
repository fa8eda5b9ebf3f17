"""Portuguese, questions only: two genders, adjectives after the noun, de + article in one word."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, place, words

_NOUNS = {
    "circle": ("círculo", "m"),
    "square": ("quadrado", "m"),
    "triangle": ("triângulo", "m"),
    "star": ("estrela", "f"),
    "heart": ("coração", "m"),
    "cross": ("cruz", "f"),
    "ring": ("anel", "m"),
    "moon": ("lua", "f"),
    None: ("coisa", "f"),
}
_A, _THE, _OF_THE = {"m": "um", "f": "uma"}, {"m": "o", "f": "a"}, {"m": "do", "f": "da"}
_COLOURS = {
    "red": {"m": "vermelho", "f": "vermelha"},
    "orange": dict.fromkeys("mf", "laranja"),
    "yellow": {"m": "amarelo", "f": "amarela"},
    "green": dict.fromkeys("mf", "verde"),
    "blue": dict.fromkeys("mf", "azul"),
    "purple": {"m": "roxo", "f": "roxa"},
    "black": {"m": "preto", "f": "preta"},
    "white": {"m": "branco", "f": "branca"},
}
_SMALL = {"m": "pequeno", "f": "pequena"}
_AT = {
    "top left": ("em cima à esquerda", "no canto superior esquerdo"),
    "top right": ("em cima à direita", "no canto superior direito"),
    "bottom left": ("embaixo à esquerda", "no canto inferior esquerdo"),
    "bottom right": ("embaixo à direita", "no canto inferior direito"),
    "middle": ("no meio", "no centro"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun, gender = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour][gender] if mention.colour else ""
    size = {"small": _SMALL[gender], "large": "grande", None: ""}[mention.size]
    return {
        "a": words(_A[gender], noun, colour, size),
        "the": words(_THE[gender], noun, colour),
        "the0": f"{_THE[gender]} {noun}",
        "of_the": words(_OF_THE[gender], noun, colour),
        "of_the0": f"{_OF_THE[gender]} {noun}",
        "small": _SMALL[gender],
        "at": place(mention, _AT, rng),
    }


PORTUGUESE = Language(
    code="pt",
    name="Português",
    forms=_forms,
    templates={
        "q_colour": ("qual é a cor {of_the0}", "de que cor é {the0}"),
        "q_colour_at": ("qual é a cor {of_the0} {at}", "de que cor é {the0} {at}"),
        "q_shape": ("qual é a forma {of_the}", "que forma tem {the}"),
        "q_shape_at": ("o que está {at}", "que forma está {at}"),
        "q_size": ("{the} é {small} ou grande", "qual é o tamanho {of_the}"),
        "q_where": ("onde está {the}", "em que lugar está {the}"),
        "q_exists": ("há {a}", "a imagem mostra {a}"),
        "q_count": ("quantas coisas há", "quantas coisas a imagem mostra"),
    },
)
