"""English: articles a/an, adjectives before the noun."""

from random import Random

from cclm.demo.languages.base import MATERIALS, SHAPES, Forms, Language, Mention, Pattern, place, words

_AT = {
    "top left": ("at the top left", "in the upper left corner"),
    "top right": ("at the top right", "in the upper right corner"),
    "bottom left": ("at the bottom left", "in the lower left corner"),
    "bottom right": ("at the bottom right", "in the lower right corner"),
    "middle": ("in the middle", "in the centre"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun = mention.shape or "thing"
    colour, size = mention.colour or "", mention.size or ""
    phrase = words(size, colour, noun)
    article = "an" if phrase[0] in "aeiou" else "a"
    return {
        "a": f"{article} {phrase}",
        "bare": phrase,
        "the": words("the", colour, noun),
        "the0": f"the {noun}",
        "colour": colour,
        "size": size,
        "at": place(mention, _AT, rng),
    }


ENGLISH = Language(
    code="en",
    name="English",
    forms=_forms,
    captions=(
        Pattern("{a} {at}"),
        Pattern("{a} {at}", lead="there is "),
        Pattern("{a} {at}", lead="the picture shows "),
        Pattern("{a} {at}", lead="a drawing of "),
        Pattern("{at} {a}", lead="we see ", needs=("place",)),
        Pattern("{at} is {a}", needs=("place",)),
        Pattern("{the0} {at} is {size} and {colour}", needs=("place", "size", "colour")),
    ),
    templates={
        "region": ("{a}", "{bare}"),
        "attribute": ("{colour}",),
        "exists": ("there is {a}", "the picture shows {a}", "we see {a}"),
        "exists_at": ("there is {a} {at}", "{at} is {a}"),
        "absent": ("there is no {bare}", "the picture does not show {a}"),
        "is_colour": ("{the0} is {colour}", "the colour of {the0} is {colour}"),
        "is_size": ("{the} is {size}",),
        "is_at": ("{the} is {at}",),
        "made_of": ("{the} is made of {material}", "{the} in the picture is made of {material}"),
        "q_colour": ("what colour is {the0}", "which colour does {the0} have"),
        "q_colour_at": ("what colour is {the0} {at}", "which colour does {the0} {at} have"),
        "q_shape": ("what shape is {the}", "which shape does {the} have"),
        "q_shape_at": ("what is {at}", "which shape is {at}"),
        "q_size": ("is {the} small or large", "what size is {the}"),
        "q_where": ("where is {the}", "in which place is {the}"),
        "q_exists": ("is there {a}", "does the picture show {a}"),
        "q_count": ("how many things are there", "how many things does the picture show"),
        "pair_left": ("the left picture shows {a}", "there is {a} in the left picture"),
        "pair_right": ("the right picture shows {a}", "there is {a} in the right picture"),
        "pair_both": ("both pictures show {a}", "there is {a} in both pictures"),
        "pair_two": (
            "the left picture shows {a} and the right picture shows {a2}",
            "there is {a} in the left picture and {a2} in the right one",
        ),
    },
    materials={material: material for material in MATERIALS},
    counts=("there is one thing", "there are two things", "there are three things"),
    shape_names={shape: shape for shape in SHAPES},
)
