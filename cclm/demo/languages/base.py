"""What a grammar is made of: mentions of things go in, true sentences come out.

A `Mention` says which facts of a thing are told (shape, colour, size, place; None: untold). A language turns one
into named *forms* (`a` = "a small red star", `the` = "the red star", `at` = "in the middle", ...), already
inflected, and its templates are plain sentences with those names in braces. A template of two mentions writes
the second one's forms with a 2 (`{a2}`). The languages of pre-training know all sentence kinds in `KINDS`; the others
know what the tasks that are tested in them ask for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SIZES = ("small", "large")
PLACES = ("top left", "top right", "bottom left", "bottom right", "middle")
MATERIALS = ("wood", "paper", "glass", "metal")

STATEMENTS = ("exists", "exists_at", "absent", "is_colour", "is_size", "is_at", "made_of")
QUESTIONS = ("q_colour", "q_colour_at", "q_shape", "q_shape_at", "q_size", "q_where", "q_exists", "q_count")
PAIR_STATEMENTS = ("pair_left", "pair_right", "pair_both", "pair_two")
KINDS = ("region", "attribute") + STATEMENTS + QUESTIONS + PAIR_STATEMENTS

# Words. Retrieval cuts captions at 30; wordy patterns are kept for scenes of few things.
LONGEST_CAPTION = 26

Forms = dict[str, str]


@dataclass(frozen=True)
class Mention:
    """The facts of one thing that a sentence tells. Without a shape it is called a thing."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Pattern:
    """How a caption is put together: lead + item, item, ... last item + tail, each item filled with its own forms.

    `lead` is filled with the first mention's forms (a verb may agree with it). `needs` names the facts without which
    the pattern would read oddly or be ambiguous.
    """

    item: str
    lead: str = ""
    tail: str = ""
    comma: str = ", "
    last: str = " and "
    needs: tuple[str, ...] = ()

    def fits(self, mentions: Sequence[Mention]) -> bool:
        """Whether every mention tells what this pattern needs."""
        return all(getattr(mention, fact) is not None for mention in mentions for fact in self.needs)


@dataclass(frozen=True)
class Language:
    """One language: its code, the inflecting function, caption patterns and sentence templates by kind."""

    code: str
    name: str
    forms: Callable[[Mention, Random], Forms]
    captions: tuple[Pattern, ...] = ()
    templates: dict[str, tuple[str, ...]] = field(default_factory=dict)
    materials: dict[str, str] = field(default_factory=dict)
    counts: tuple[str, ...] = ()
    stop: str = "."
    query: str = "?"
    opening: str = ""
    shape_names: dict[str, str] = field(default_factory=dict)
    longest: int = LONGEST_CAPTION
    """Words of a caption."""

    def caption(self, mentions: Sequence[Mention], rng: Random) -> str:
        """One sentence without capital or full stop that names all mentions, in an order drawn from `rng`."""
        while True:
            order = rng.sample(list(mentions), len(mentions))
            pattern = rng.choice([pattern for pattern in self.captions if pattern.fits(order)])
            forms = [self.forms(mention, rng) for mention in order]
            items = [pattern.item.format_map(form) for form in forms]
            listed = items[0] if len(items) == 1 else pattern.comma.join(items[:-1]) + pattern.last + items[-1]
            text = tidy(pattern.lead.format_map(forms[0]) + listed + pattern.tail)
            if len(text.split()) <= self.longest:
                return text

    def say(self, kind: str, mentions: Sequence[Mention], rng: Random, material: str = "wood") -> str:
        """One sentence of a kind (see `KINDS`), without capital or closing mark, in a wording drawn from `rng`."""
        forms: Forms = {"material": self.materials.get(material, "")}
        for number, mention in enumerate(mentions):
            suffix = "" if number == 0 else str(number + 1)
            forms |= {name + suffix: text for name, text in self.forms(mention, rng).items()}
        return tidy(rng.choice(self.templates[kind]).format_map(forms))

    def count(self, number: int) -> str:
        """The statement that a picture holds `number` (1 to 3) things."""
        return self.counts[number - 1]

    def sentence(self, text: str) -> str:
        """With a capital (where the script has them) and a full stop."""
        return text[:1].upper() + text[1:] + self.stop

    def question(self, text: str) -> str:
        """With a capital (where the script has them) and a question mark."""
        return self.opening + text[:1].upper() + text[1:] + self.query


def tidy(text: str) -> str:
    """Without the doubled spaces that untold facts leave behind."""
    return re.sub(r" +", " ", text).replace(" ,", ",").strip()


def place(mention: Mention, wordings: dict[str, tuple[str, str]], rng: Random) -> str:
    """Where the mentioned thing is: mostly the first, short wording. Empty if untold."""
    if mention.place is None:
        return ""
    return wordings[mention.place][rng.random() < 0.25]


def words(*parts: str) -> str:
    """The parts that are not empty, with single spaces."""
    return " ".join(part for part in parts if part)
