"""Indonesian: no inflection, adjectives after the noun, a classifier instead of an article."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {
    "circle": "lingkaran",
    "square": "persegi",
    "triangle": "segitiga",
    "star": "bintang",
    "heart": "hati",
    "cross": "salib",
    "ring": "cincin",
    "moon": "bulan",
    None: "benda",
}
_COLOURS = {
    "red": "merah",
    "orange": "oranye",
    "yellow": "kuning",
    "green": "hijau",
    "blue": "biru",
    "purple": "ungu",
    "black": "hitam",
    "white": "putih",
}
_SIZES = {"small": "kecil", "large": "besar"}
_AT = {
    "top left": ("di kiri atas", "di sudut kiri atas"),
    "top right": ("di kanan atas", "di sudut kanan atas"),
    "bottom left": ("di kiri bawah", "di sudut kiri bawah"),
    "bottom right": ("di kanan bawah", "di sudut kanan bawah"),
    "middle": ("di tengah", "di bagian tengah"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour] if mention.colour else ""
    size = _SIZES[mention.size] if mention.size else ""
    phrases = [words(noun, colour, size)]
    if colour:
        phrases.append(words(noun, size, "berwarna", colour))
    phrase = rng.choice(phrases)
    return {
        "a": f"sebuah {phrase}",
        "bare": phrase,
        "the": words(noun, colour, "itu"),
        "the0": f"{noun} itu",
        "noun": noun,
        "colour": colour,
        "size": size,
        "at": place(mention, _AT, rng),
    }


INDONESIAN = Language(
    code="id",
    name="bahasa Indonesia",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" dan "),
        Pattern("{a} {at}", lead="ada ", last=" dan "),
        Pattern("{a} {at}", lead="gambar ini menunjukkan ", last=" dan "),
        Pattern("{a} {at}", lead="gambar dengan ", last=" dan "),
        Pattern("{at} ada {a}", last=" dan ", needs=("place",)),
        Pattern("{at} terdapat {bare}", last=" dan ", needs=("place",)),
        Pattern("{noun} {at} berwarna {colour} dan berukuran {size}", last=", ", needs=("place", "size", "colour")),
    ),
    templates={
        "region": ("{a}", "{bare}"),
        "attribute": ("{colour}",),
        "exists": ("ada {a}", "gambar ini menunjukkan {a}", "terdapat {a}"),
        "exists_at": ("ada {a} {at}", "{at} terdapat {a}"),
        "absent": ("tidak ada {bare}", "gambar ini tidak menunjukkan {bare}"),
        "is_colour": ("{the0} berwarna {colour}", "warna {the0} adalah {colour}"),
        "is_size": ("{the} {size}", "{the} berukuran {size}"),
        "is_at": ("{the} ada {at}", "{the} terletak {at}"),
        "made_of": ("{the} terbuat dari {material}", "{the} di gambar ini terbuat dari {material}"),
        "q_colour": ("apa warna {the0}", "{the0} berwarna apa"),
        "q_colour_at": ("apa warna {noun} {at}", "{noun} {at} berwarna apa"),
        "q_shape": ("apa bentuk {the}", "{the} berbentuk apa"),
        "q_shape_at": ("apa yang ada {at}", "bentuk apa yang ada {at}"),
        "q_size": ("apakah {the} kecil atau besar", "berapa ukuran {the}"),
        "q_where": ("di mana {the}", "{the} terletak di mana"),
        "q_exists": ("apakah ada {a}", "apakah gambar ini menunjukkan {a}"),
        "q_count": ("ada berapa benda", "berapa benda yang ada di gambar ini"),
        "pair_left": ("gambar kiri menunjukkan {a}", "ada {a} di gambar sebelah kiri"),
        "pair_right": ("gambar kanan menunjukkan {a}", "ada {a} di gambar sebelah kanan"),
        "pair_both": ("kedua gambar menunjukkan {a}", "ada {a} di kedua gambar"),
        "pair_two": (
            "gambar kiri menunjukkan {a} dan gambar kanan menunjukkan {a2}",
            "ada {a} di gambar sebelah kiri dan {a2} di gambar sebelah kanan",
        ),
    },
    materials={"wood": "kayu", "paper": "kertas", "glass": "kaca", "metal": "logam"},
    counts=("ada satu benda", "ada dua benda", "ada tiga benda"),
    shape_names={shape: noun for shape, noun in _NOUNS.items() if shape},
)
