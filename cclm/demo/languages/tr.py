"""Turkish: verb last, cases as suffixes (written out in the noun table), -ki turns places into adjectives."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {  # nominative, accusative, genitive
    "circle": ("daire", "daireyi", "dairenin"),
    "square": ("kare", "kareyi", "karenin"),
    "triangle": ("üçgen", "üçgeni", "üçgenin"),
    "star": ("yıldız", "yıldızı", "yıldızın"),
    "heart": ("kalp", "kalbi", "kalbin"),
    "cross": ("haç", "haçı", "haçın"),
    "ring": ("halka", "halkayı", "halkanın"),
    "moon": ("ay", "ayı", "ayın"),
    None: ("şekil", "şekli", "şeklin"),
}
_COLOURS = {
    "red": "kırmızı",
    "orange": "turuncu",
    "yellow": "sarı",
    "green": "yeşil",
    "blue": "mavi",
    "purple": "mor",
    "black": "siyah",
    "white": "beyaz",
}
_SIZES = {"small": "küçük", "large": "büyük"}
_AT = {
    "top left": ("sol üstte", "sol üst köşede"),
    "top right": ("sağ üstte", "sağ üst köşede"),
    "bottom left": ("sol altta", "sol alt köşede"),
    "bottom right": ("sağ altta", "sağ alt köşede"),
    "middle": ("ortada", "merkezde"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun, accusative, genitive = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour] if mention.colour else ""
    size = _SIZES[mention.size] if mention.size else ""
    at = place(mention, _AT, rng)
    return {
        # The article may stand before the colour or right before the noun.
        "a": rng.choice((words(size, colour, "bir", noun), words(size, "bir", colour, noun))),
        "bare": words(size, colour, noun),
        "the": words(colour, noun),
        "the0": noun,
        "acc": words(size, colour, accusative),
        "gen": words(colour, genitive),
        "gen0": genitive,
        "colour": colour,
        "size": size,
        "at": at,
        "ki": f"{at}ki" if at else "",
    }


TURKISH = Language(
    code="tr",
    name="Türkçe",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" ve "),
        Pattern("{at} {a}", tail=" var", last=" ve "),
        Pattern("{at} {a}", lead="resimde ", tail=" görünüyor", last=" ve "),
        Pattern("{ki} {acc}", lead="bu resim ", tail=" gösteriyor", last=" ve "),
        Pattern("{a} {at}", tail=" duruyor", last=", ", needs=("place",)),
        Pattern("{at} {a} var", last=", ", needs=("place",)),
        Pattern("{ki} {the0} {colour} ve {size}", last=", ", needs=("place", "size", "colour")),
    ),
    templates={
        "region": ("{a}", "{bare}"),
        "attribute": ("{colour}",),
        "exists": ("{a} var", "resimde {a} var", "resimde {a} görünüyor"),
        "exists_at": ("{at} {a} var", "{at} {a} görünüyor"),
        "absent": ("resimde {bare} yok", "hiç {bare} yok"),
        "is_colour": ("{the0} {colour}", "{gen0} rengi {colour}"),
        "is_size": ("{the} {size}",),
        "is_at": ("{the} {at}", "{the} {at} duruyor"),
        "made_of": ("{the} {material} yapılmış", "resimdeki {the} {material} yapılmış"),
        "q_colour": ("{gen0} rengi ne", "{the0} ne renk"),
        "q_colour_at": ("{ki} {gen0} rengi ne", "{ki} {the0} ne renk"),
        "q_shape": ("{gen} biçimi ne", "{the} hangi biçimde"),
        "q_shape_at": ("{at} ne var", "{at} hangi biçim var"),
        "q_size": ("{the} küçük mü büyük mü", "{the} ne kadar büyük"),
        "q_where": ("{the} nerede", "{the} nerede duruyor"),
        "q_exists": ("{a} var mı", "resimde {a} görünüyor mu"),
        "q_count": ("kaç şekil var", "resimde kaç şekil görünüyor"),
        "pair_left": ("soldaki resimde {a} var", "soldaki resim {a} gösteriyor"),
        "pair_right": ("sağdaki resimde {a} var", "sağdaki resim {a} gösteriyor"),
        "pair_both": ("resimlerin her ikisinde {a} var", "her iki resim {a} gösteriyor"),
        "pair_two": (
            "soldaki resimde {a}, sağdaki resimde {a2} var",
            "soldaki resim {a}, sağdaki resim ise {a2} gösteriyor",
        ),
    },
    materials={"wood": "ahşaptan", "paper": "kağıttan", "glass": "camdan", "metal": "metalden"},
    counts=("bir şekil var", "burada iki şekil var", "burada üç şekil var"),
    shape_names={shape: noun[0] for shape, noun in _NOUNS.items() if shape},
)
