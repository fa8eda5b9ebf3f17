"""Greek, captions only: three genders, adjectives agree, some colours do not; everything stands in the nominative."""

from random import Random

from cclm.demo.languages.base import Forms, Language, Mention, Pattern, place, words

_NOUNS = {
    "circle": ("κύκλος", "m"),
    "square": ("τετράγωνο", "n"),
    "triangle": ("τρίγωνο", "n"),
    "star": ("αστέρι", "n"),
    "heart": ("καρδιά", "f"),
    "cross": ("σταυρός", "m"),
    "ring": ("δαχτυλίδι", "n"),
    "moon": ("φεγγάρι", "n"),
    None: ("πράγμα", "n"),
}
_A = {"m": "ένας", "f": "μία", "n": "ένα"}
_THE = {"m": "ο", "f": "η", "n": "το"}
_COLOURS = {  # masculine, feminine, neuter
    "red": {"m": "κόκκινος", "f": "κόκκινη", "n": "κόκκινο"},
    "orange": dict.fromkeys("mfn", "πορτοκαλί"),
    "yellow": {"m": "κίτρινος", "f": "κίτρινη", "n": "κίτρινο"},
    "green": {"m": "πράσινος", "f": "πράσινη", "n": "πράσινο"},
    "blue": dict.fromkeys("mfn", "μπλε"),
    "purple": dict.fromkeys("mfn", "μωβ"),
    "black": {"m": "μαύρος", "f": "μαύρη", "n": "μαύρο"},
    "white": {"m": "λευκός", "f": "λευκή", "n": "λευκό"},
}
_SIZES = {
    "small": {"m": "μικρός", "f": "μικρή", "n": "μικρό"},
    "large": {"m": "μεγάλος", "f": "μεγάλη", "n": "μεγάλο"},
}
_AT = {
    "top left": ("πάνω αριστερά", "στην πάνω αριστερή γωνία"),
    "top right": ("πάνω δεξιά", "στην πάνω δεξιά γωνία"),
    "bottom left": ("κάτω αριστερά", "στην κάτω αριστερή γωνία"),
    "bottom right": ("κάτω δεξιά", "στην κάτω δεξιά γωνία"),
    "middle": ("στη μέση", "στο κέντρο"),
}


def _forms(mention: Mention, rng: Random) -> Forms:
    noun, gender = _NOUNS[mention.shape]
    colour = _COLOURS[mention.colour][gender] if mention.colour else ""
    size = _SIZES[mention.size][gender] if mention.size else ""
    return {"a": words(_A[gender], size, colour, noun), "the0": f"{_THE[gender]} {noun}", "colour": colour,
            "size": size, "at": place(mention, _AT, rng)}  # fmt: skip


GREEK = Language(
    code="el",
    name="Ελληνικά",
    forms=_forms,
    captions=(
        Pattern("{a} {at}", last=" και "),
        Pattern("{a} {at}", lead="υπάρχει ", last=" και "),
        Pattern("{at} υπάρχει {a}", last=" και ", needs=("place",)),
        Pattern("{a} {at}", lead="στην εικόνα υπάρχει ", last=" και "),
        Pattern("{the0} {at} είναι {size} και {colour}", last=", ", needs=("place", "size", "colour")),
    ),
)
