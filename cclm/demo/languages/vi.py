"""Vietnamese, captions only: nothing is inflected, attributes follow the noun, words are single syllables."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {
    "circle": "hình tròn",
    "square": "hình vuông",
    "triangle": "hình tam giác",
    "star": "ngôi sao",
    "heart": "trái tim",
    "cross": "hình chữ thập",
    "ring": "chiếc nhẫn",
    "moon": "mặt trăng",
    None: "vật",
}
_COLOURS = {
    "red": "màu đỏ",
    "orange": "màu cam",
    "yellow": "màu vàng",
    "green": "màu xanh lá",
    "blue": "màu xanh dương",
    "purple": "màu tím",
    "black": "màu đen",
    "white": "màu trắng",
}
_SIZES = {"small": "nhỏ", "large": "lớn"}
_AT = {
    "top left": ("ở trên bên trái", "ở góc trên bên trái"),
    "top right": ("ở trên bên phải", "ở góc trên bên phải"),
    "bottom left": ("ở dưới bên trái", "ở góc dưới bên trái"),
    "bottom right": ("ở dưới bên phải", "ở góc dưới bên phải"),
    "middle": ("ở giữa", "ở chính giữa"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour] if mention.colour else ""
    size = _SIZES[mention.size] if mention.size else ""
    return {"a": words("một", noun, size, colour), "the0": noun, "colour": colour, "size": size,
            "at": place(mention, _AT, rng)}  # fmt: skip


VIETNAMESE = Language(
    code="vi",
    name="Tiếng Việt",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" và "),
        Pattern("{a} {at}", lead="có ", last=" và "),
        Pattern("{at} có {a}", last=" và ", needs=("place",)),
        Pattern("{a} {at}", lead="bức tranh có ", last=" và "),
        Pattern("{the0} {at} {size} và có {colour}", last=", ", needs=("place", "size", "colour")),
    ),
    longest=50,
)
