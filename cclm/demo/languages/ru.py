"""Russian: three genders, endings by case, no article, no verb "to be" in the present."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_CASES = ("a", "acc", "gen", "ins")
_NOUNS = {  # gender; nominative, accusative, genitive, instrumental
    "circle": ("m", "круг", "круг", "круга", "кругом"),
    "square": ("m", "квадрат", "квадрат", "квадрата", "квадратом"),
    "triangle": ("m", "треугольник", "треугольник", "треугольника", "треугольником"),
    "star": ("f", "звезда", "звезду", "звезды", "звездой"),
    "heart": ("n", "сердце", "сердце", "сердца", "сердцем"),
    "cross": ("m", "крест", "крест", "креста", "крестом"),
    "ring": ("n", "кольцо", "кольцо", "кольца", "кольцом"),
    "moon": ("f", "луна", "луну", "луны", "луной"),
    None: ("m", "предмет", "предмет", "предмета", "предметом"),
}
_HARD = {"m": ("ый", "ый", "ого", "ым"), "f": ("ая", "ую", "ой", "ой"), "n": ("ое", "ое", "ого", "ым")}
_SOFT = {"m": ("ий", "ий", "его", "им"), "f": ("яя", "юю", "ей", "ей"), "n": ("ее", "ее", "его", "им")}
_AFTER_K = {"m": ("ий", "ий", "ого", "им"), "f": ("ая", "ую", "ой", "ой"), "n": ("ое", "ое", "ого", "им")}
_STRESSED = {"m": ("ой", "ой", "ого", "им"), "f": ("ая", "ую", "ой", "ой"), "n": ("ое", "ое", "ого", "им")}
_ADJECTIVES = {
    "red": ("красн", _HARD),
    "orange": ("оранжев", _HARD),
    "yellow": ("жёлт", _HARD),
    "green": ("зелён", _HARD),
    "blue": ("син", _SOFT),
    "purple": ("фиолетов", _HARD),
    "black": ("чёрн", _HARD),
    "white": ("бел", _HARD),
    "small": ("маленьк", _AFTER_K),
    "large": ("больш", _STRESSED),
}
_AT = {
    "top left": ("слева вверху", "в левом верхнем углу"),
    "top right": ("справа вверху", "в правом верхнем углу"),
    "bottom left": ("слева внизу", "в левом нижнем углу"),
    "bottom right": ("справа внизу", "в правом нижнем углу"),
    "middle": ("в центре", "посередине"),
}


def _adjective(word: str | None, gender: str, case: int) -> str:
    if word is None:
        return ""
    stem, endings = _ADJECTIVES[word]
    return stem + endings[gender][case]


def _forms(mention: Mention, rng: Random) -> Forms:
    gender, *nouns = _NOUNS[mention.shape]
    forms = {
        case: words(_adjective(mention.size, gender, column), _adjective(mention.colour, gender, column), nouns[column])
        for column, case in enumerate(_CASES)
    }
    colour, size = _adjective(mention.colour, gender, 0), _adjective(mention.size, gender, 0)
    return forms | {
        "the": words(colour, nouns[0]),
        "thegen": words(_adjective(mention.colour, gender, 2), nouns[2]),
        "the0": nouns[0],
        "gen0": nouns[2],
        "colour": colour,
        "size": size,
        "small": _adjective("small", gender, 0),
        "large": _adjective("large", gender, 0),
        "which": {"m": "какой", "f": "какая", "n": "какое"}[gender],
        "made": {"m": "сделан", "f": "сделана", "n": "сделано"}[gender],
        "at": place(mention, _AT, rng),
    }


RUSSIAN = Language(
    code="ru",
    name="русский",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" и "),
        Pattern("{at} {a}", last=", а ", needs=("place",)),
        Pattern("{at} находится {a}", last=", а ", needs=("place",)),
        Pattern("{a} {at}", lead="на картинке ", last=" и "),
        Pattern("{at} {acc}", lead="мы видим ", last=" и "),
        Pattern("{ins} {at}", lead="рисунок с ", last=" и "),
        Pattern("{the0} {at} {size} и {colour}", last=", а ", needs=("place", "size", "colour")),
    ),
    templates={
        "region": ("{a}",),
        "attribute": ("{colour}",),
        "exists": ("на картинке есть {a}", "мы видим {acc}", "здесь {a}"),
        "exists_at": ("{at} находится {a}", "{a} находится {at}"),
        "absent": ("на картинке нет {gen}", "здесь нет {gen}"),
        "is_colour": ("{the0} здесь {colour}", "на картинке {the0} {colour}"),
        "is_size": ("{the} здесь {size}", "{the} на картинке {size}"),
        "is_at": ("{the} находится {at}", "{at} находится {the}"),
        "made_of": ("{the} {made} из {material}", "{the} на картинке {made} из {material}"),
        "q_colour": ("какого цвета {the0}", "какой цвет у {gen0}"),
        "q_colour_at": ("какого цвета {the0} {at}",),
        "q_shape": ("какой формы {the}", "какая форма у {thegen}"),
        "q_shape_at": ("что находится {at}", "какая форма {at}"),
        "q_size": ("{the} {small} или {large}", "{which} по размеру {the}"),
        "q_where": ("где {the}", "где находится {the}"),
        "q_exists": ("есть ли здесь {a}", "есть ли на картинке {a}"),
        "q_count": ("сколько здесь предметов", "сколько предметов на картинке"),
        "pair_left": ("на левой картинке {a}", "левая картинка показывает {acc}"),
        "pair_right": ("на правой картинке {a}", "правая картинка показывает {acc}"),
        "pair_both": ("на обеих картинках {a}", "обе картинки показывают {acc}"),
        "pair_two": (
            "на левой картинке {a}, а на правой {a2}",
            "левая картинка показывает {acc}, а правая картинка показывает {acc2}",
        ),
    },
    materials={"wood": "дерева", "paper": "бумаги", "glass": "стекла", "metal": "металла"},
    counts=("здесь один предмет", "здесь два предмета", "здесь три предмета"),
    shape_names={shape: noun[1] for shape, noun in _NOUNS.items() if shape},
)
