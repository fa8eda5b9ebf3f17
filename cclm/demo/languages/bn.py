"""Bengali, questions only: no genders; -টি makes a noun definite, -র its genitive."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, place, words

_NOUNS = {
    "circle": "বৃত্ত",
    "square": "বর্গক্ষেত্র",
    "triangle": "ত্রিভুজ",
    "star": "তারা",
    "heart": "হৃদয়",
    "cross": "ক্রস",
    "ring": "আংটি",
    "moon": "চাঁদ",
    None: "জিনিস",
}
_COLOURS = {
    "red": "লাল",
    "orange": "কমলা",
    "yellow": "হলুদ",
    "green": "সবুজ",
    "blue": "নীল",
    "purple": "বেগুনি",
    "black": "কালো",
    "white": "সাদা",
}
_SIZES = {"small": "ছোট", "large": "বড়"}
_AT = {
    "top left": ("উপরে বাম দিকে", "উপরের বাম কোণে"),
    "top right": ("উপরে ডান দিকে", "উপরের ডান কোণে"),
    "bottom left": ("নিচে বাম দিকে", "নিচের বাম কোণে"),
    "bottom right": ("নিচে ডান দিকে", "নিচের ডান কোণে"),
    "middle": ("মাঝখানে", "কেন্দ্রে"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour] if mention.colour else ""
    size = _SIZES[mention.size] if mention.size else ""
    the = words(colour, noun + "টি")
    return {"a": words("একটি", size, colour, noun), "the": the, "of_the": the + "র", "of_the0": noun + "টির",
            "at": place(mention, _AT, rng)}  # fmt: skip


BENGALI = Language(
    code="bn",
    name="বাংলা",
    forms=_forms,
    templates={
        "q_colour": ("{of_the0} রঙ কী", "{of_the0} রঙ কোনটি"),
        "q_colour_at": ("{at} থাকা {of_the0} রঙ কী",),
        "q_shape": ("{of_the} আকৃতি কী", "{of_the} আকার কেমন"),
        "q_shape_at": ("{at} কী আছে", "{at} কোন আকৃতি আছে"),
        "q_size": ("{the} ছোট না বড়",),
        "q_where": ("{the} কোথায়", "{the} কোথায় আছে"),
        "q_exists": ("{a} আছে কি", "ছবিতে কি {a} আছে"),
        "q_count": ("কয়টি জিনিস আছে", "ছবিতে কয়টি জিনিস আছে"),
    },
)
