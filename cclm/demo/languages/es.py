"""Spanish: gender agreement, adjectives after the noun in either order."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {
    "circle": ("círculo", "m"),
    "square": ("cuadrado", "m"),
    "triangle": ("triángulo", "m"),
    "star": ("estrella", "f"),
    "heart": ("corazón", "m"),
    "cross": ("cruz", "f"),
    "ring": ("anillo", "m"),
    "moon": ("luna", "f"),
    None: ("objeto", "m"),
}
_ADJECTIVES = {  # masculine, feminine
    "red": ("rojo", "roja"),
    "orange": ("naranja", "naranja"),
    "yellow": ("amarillo", "amarilla"),
    "green": ("verde", "verde"),
    "blue": ("azul", "azul"),
    "purple": ("morado", "morada"),
    "black": ("negro", "negra"),
    "white": ("blanco", "blanca"),
    "small": ("pequeño", "pequeña"),
    "large": ("grande", "grande"),
}
_AT = {
    "top left": ("arriba a la izquierda", "en la esquina superior izquierda"),
    "top right": ("arriba a la derecha", "en la esquina superior derecha"),
    "bottom left": ("abajo a la izquierda", "en la esquina inferior izquierda"),
    "bottom right": ("abajo a la derecha", "en la esquina inferior derecha"),
    "middle": ("en el centro", "en el medio"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun, gender = _NOUNS[mention.shape]
    column = "mf".index(gender)
    colour = _ADJECTIVES[mention.colour][column] if mention.colour else ""
    size = _ADJECTIVES[mention.size][column] if mention.size else ""
    if size and colour:
        adjectives = rng.choice((f"{colour} y {size}", f"{colour} {size}", f"{size} {colour}"))
    else:
        adjectives = size or colour
    article = ("el", "la")[column]
    return {
        "a": words(("un", "una")[column], noun, adjectives),
        "bare": words(noun, adjectives),
        "no": words(("ningún", "ninguna")[column], noun, adjectives),
        "the": words(article, noun, colour),
        "the0": f"{article} {noun}",
        "colour": colour,
        "size": size,
        "small": _ADJECTIVES["small"][column],
        "at": place(mention, _AT, rng),
    }


SPANISH = Language(
    code="es",
    name="español",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" y "),
        Pattern("{a} {at}", lead="hay ", last=" y "),
        Pattern("{a} {at}", lead="la imagen muestra ", last=" y "),
        Pattern("{a} {at}", lead="un dibujo con ", last=" y "),
        Pattern("{at} hay {a}", last=" y ", needs=("place",)),
        Pattern("{at} vemos {a}", last=" y ", needs=("place",)),
        Pattern("{the0} {at} es {size} y {colour}", last=" y ", needs=("place", "size", "colour")),
    ),
    templates={
        "region": ("{a}", "{bare}"),
        "attribute": ("{colour}",),
        "exists": ("hay {a}", "la imagen muestra {a}", "se ve {a}"),
        "exists_at": ("hay {a} {at}", "{at} hay {a}"),
        "absent": ("no hay {no}", "no se ve {no}"),
        "is_colour": ("{the0} es {colour}", "en la imagen {the0} es {colour}"),
        "is_size": ("{the} es {size}",),
        "is_at": ("{the} está {at}", "{at} está {the}"),
        "made_of": ("{the} es de {material}", "en la imagen {the} es de {material}"),
        "q_colour": ("de qué color es {the0}", "qué color tiene {the0}"),
        "q_colour_at": ("de qué color es {the0} {at}", "qué color tiene {the0} {at}"),
        "q_shape": ("qué forma tiene {the}",),
        "q_shape_at": ("qué hay {at}", "qué forma está {at}"),
        "q_size": ("{the} es {small} o grande", "qué tamaño tiene {the}"),
        "q_where": ("dónde está {the}", "en qué lugar está {the}"),
        "q_exists": ("hay {a}", "la imagen muestra {a}"),
        "q_count": ("cuántos objetos hay", "cuántos objetos muestra la imagen"),
        "pair_left": ("la imagen izquierda muestra {a}", "en la imagen izquierda hay {a}"),
        "pair_right": ("la imagen derecha muestra {a}", "en la imagen derecha hay {a}"),
        "pair_both": ("las dos imágenes muestran {a}", "en ambas imágenes hay {a}"),
        "pair_two": (
            "la imagen izquierda muestra {a} y la imagen derecha muestra {a2}",
            "en la imagen izquierda hay {a} y en la derecha hay {a2}",
        ),
    },
    materials={"wood": "madera", "paper": "papel", "glass": "vidrio", "metal": "metal"},
    counts=("hay un objeto", "hay dos objetos", "hay tres objetos"),
    opening="¿",
    shape_names={shape: noun for shape, (noun, _) in _NOUNS.items() if shape},
)
