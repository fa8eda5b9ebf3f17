"""Arabic: right to left, adjectives after the noun in its gender and definiteness, "and" and "the" as prefixes."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {
    "circle": ("دائرة", "f"),
    "square": ("مربع", "m"),
    "triangle": ("مثلث", "m"),
    "star": ("نجمة", "f"),
    "heart": ("قلب", "m"),
    "cross": ("صليب", "m"),
    "ring": ("حلقة", "f"),
    "moon": ("هلال", "m"),
    None: ("شكل", "m"),
}
_ADJECTIVES = {  # masculine, feminine
    "red": ("أحمر", "حمراء"),
    "orange": ("برتقالي", "برتقالية"),
    "yellow": ("أصفر", "صفراء"),
    "green": ("أخضر", "خضراء"),
    "blue": ("أزرق", "زرقاء"),
    "purple": ("بنفسجي", "بنفسجية"),
    "black": ("أسود", "سوداء"),
    "white": ("أبيض", "بيضاء"),
    "small": ("صغير", "صغيرة"),
    "large": ("كبير", "كبيرة"),
}
_AT = {
    "top left": ("في أعلى اليسار", "في الزاوية اليسرى العليا"),
    "top right": ("في أعلى اليمين", "في الزاوية اليمنى العليا"),
    "bottom left": ("في أسفل اليسار", "في الزاوية اليسرى السفلى"),
    "bottom right": ("في أسفل اليمين", "في الزاوية اليمنى السفلى"),
    "middle": ("في الوسط", "في المنتصف"),
}


def _accusative(word: str) -> str:
    """Indefinite accusative as written: an alif, except after feminine endings and on diptotes (most colours)."""
    return word if not word or word.endswith(("ة", "ء")) or word.startswith("أ") else f"{word}ا"


def _forms(mention: Mention, rng: Random) -> Forms:
    noun, gender = _NOUNS[mention.shape]
    column = "mf".index(gender)
    colour = _ADJECTIVES[mention.colour][column] if mention.colour else ""
    size = _ADJECTIVES[mention.size][column] if mention.size else ""
    adjectives = rng.choice(([colour, size], [size, colour]))
    return {
        "a": words(noun, *adjectives),
        "acc": words(_accusative(noun), *(_accusative(adjective) for adjective in adjectives)),
        "the": words(f"ال{noun}", f"ال{colour}" if colour else ""),
        "the0": f"ال{noun}",
        "colour": colour,
        "size": size,
        "small": _ADJECTIVES["small"][column],
        "large": _ADJECTIVES["large"][column],
        "is": ("يوجد", "توجد")[column],
        "appears": ("يظهر", "تظهر")[column],
        "made": ("مصنوع", "مصنوعة")[column],
        "at": place(mention, _AT, rng),
    }


ARABIC = Language(
    code="ar",
    name="العربية",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", comma=" و", last=" و"),
        Pattern("{a} {at}", lead="{is} ", comma=" و", last=" و"),
        Pattern("{at} {a}", comma=" و", last=" و", needs=("place",)),
        Pattern("{a} {at}", lead="{appears} في الصورة ", comma=" و", last=" و"),
        Pattern("{acc} {at}", lead="تعرض الصورة ", comma=" و", last=" و"),
        Pattern("{a} {at}", lead="صورة فيها ", comma=" و", last=" و"),
        Pattern("{the0} {at} {colour} و{size}", comma=" و", last=" و", needs=("place", "size", "colour")),
    ),
    templates={
        "region": ("{a}",),
        "attribute": ("{colour}",),
        "exists": ("{is} {a}", "{is} في الصورة {a}", "تعرض الصورة {acc}"),
        "exists_at": ("{is} {a} {at}", "{at} {is} {a}"),
        "absent": ("لا {is} {a}", "لا {appears} في الصورة {a}"),
        "is_colour": ("{the0} {colour}", "{the0} في الصورة {colour}"),
        "is_size": ("{the} {size}",),
        "is_at": ("{the} {at}", "{at} {is} {the}"),
        "made_of": ("{the} {made} من {material}", "{the} في الصورة {made} من {material}"),
        "q_colour": ("ما لون {the0}", "ما هو لون {the0}"),
        "q_colour_at": ("ما لون {the0} {at}", "ما هو لون {the0} {at}"),
        "q_shape": ("ما هو {the}", "ما نوع {the}"),
        "q_shape_at": ("ماذا {at}", "ما الشكل {at}"),
        "q_size": ("هل {the} {small} أم {large}", "ما حجم {the}"),
        "q_where": ("أين {the}", "أين {is} {the}"),
        "q_exists": ("هل {is} {a}", "هل {appears} في الصورة {a}"),
        "q_count": ("كم شكلا في الصورة", "كم عدد الأشكال في الصورة"),
        "pair_left": ("في الصورة اليسرى {a}", "تعرض الصورة اليسرى {acc}"),
        "pair_right": ("في الصورة اليمنى {a}", "تعرض الصورة اليمنى {acc}"),
        "pair_both": ("في الصورتين {a}", "تعرض كلتا الصورتين {acc}"),
        "pair_two": (
            "في الصورة اليسرى {a} وفي الصورة اليمنى {a2}",
            "تعرض الصورة اليسرى {acc} وتعرض الصورة اليمنى {acc2}",
        ),
    },
    materials={"wood": "الخشب", "paper": "الورق", "glass": "الزجاج", "metal": "المعدن"},
    counts=("في الصورة شكل واحد", "في الصورة شكلان", "في الصورة ثلاثة أشكال"),
    query="؟",
    shape_names={shape: noun for shape, (noun, _) in _NOUNS.items() if shape},
)
