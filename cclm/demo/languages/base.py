"""What a grammar is made of: it turns mentions of things into sentences.

A `Mention` has the facts of a thing that a sentence names (shape, colour, size, place; None: not named). A language
turns a mention into named *forms* that are already inflected: `a` = "a small red star", `the` = "the red star",
`at` = "in the middle". Its templates are plain sentences with the names of forms in braces. A template of two mentions
writes the forms of the second one with a 2 (`{a2}`). The languages of pre-training have templates for all sentence
kinds in `KINDS`. The others have those that the tasks need which are tested in them.
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

LONGEST_CAPTION = 26
"""Words. Retrieval cuts captions at 30, so long patterns are only used for scenes of few things."""

Forms = dict[str, str]
"""Name of a form -> its text."""


@dataclass(frozen=True)
class Mention:
    """The facts of one thing that a sentence names. Without a shape it is called a thing."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Pattern:
    """How a caption is put together: lead, items, tail."""

    item: str
    """Template of each mention."""
    lead: str = ""
    """Template before the items. It has the forms of the first mention, since a verb may agree with it."""
    tail: str = ""
    """Text after the items."""
    comma: str = ", "
    """Text between two items."""
    last: str = " and "
    """Text before the last item."""
    needs: tuple[str, ...] = ()
    """Facts without which the pattern would read oddly or be ambiguous."""

    def fits(self, mentions: Sequence[Mention]) -> bool:
        """Whether every mention has the facts that this pattern needs."""
        return all(getattr(mention, fact) is not None for mention in mentions for fact in self.needs)


@dataclass(frozen=True)
class Language:
    """The grammar of one language."""

    code: str
    name: str
    """In the language itself."""
    forms: Callable[[Mention, Random], Forms]
    """Inflects a mention."""
    captions: tuple[Pattern, ...] = ()
    templates: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Kind of sentence -> its wordings."""
    materials: dict[str, str] = field(default_factory=dict)
    """English name of a material -> the form that the templates of "made_of" need."""
    counts: tuple[str, ...] = ()
    """The statements that a picture holds one, two, three things."""
    stop: str = "."
    """Full stop."""
    query: str = "?"
    """Question mark."""
    opening: str = ""
    """Mark before a question."""
    shape_names: dict[str, str] = field(default_factory=dict)
    """English name of a shape -> the word for it alone."""
    longest: int = LONGEST_CAPTION
    """Words of a caption, at most."""

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

    def phrase(self, kind: str, mentions: Sequence[Mention], rng: Random, material: str = "wood") -> str:
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
    """The text without the extra spaces that facts leave behind which are not named."""
    return re.sub(r" +", " ", text).replace(" ,", ",").strip()


def place(mention: Mention, wordings: dict[str, tuple[str, str]], rng: Random) -> str:
    """Where the mentioned thing is, in three of four cases in the first wording; empty if its place is not named.

    Args:
        wordings: place -> a short and a longer wording.
    """
    if mention.place is None:
        return ""
    return wordings[mention.place][rng.random() < 0.25]


def words(*parts: str) -> str:
    """The parts that are not empty, with single spaces."""
    return " ".join(part for part in parts if part)
