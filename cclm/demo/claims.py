"""Statements and questions about scenes, independent of language: what they state, and whether it is true.

`claim_text` puts a `Claim` into words, and `holds` decides whether a scene makes it true. Texts for training scenes
never name a held-out combination, not even in a false statement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from cclm.demo.languages.base import (
    COLOURS,
    MATERIALS,
    PLACES,
    SHAPES,
    SIZES,
    Language,
    Mention,
)
from cclm.demo.scenes import Scene, Thing, is_held_out, shows_held_out

_VALUES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "place": PLACES}
_NUMBERS = ("one", "two", "three")
_FACTS = {
    "exists": ("shape", "colour"),
    "exists_at": ("shape", "colour", "place"),
    "is_colour": ("shape", "colour"),
    "is_size": ("shape", "colour", "size"),
    "is_at": ("shape", "colour", "place"),
}
"""Kind of statement -> the facts that it names of a thing. A false statement gets the last one wrong."""
_DECIDABLE = ("exists", "exists_at", "absent", "is_colour", "is_size", "is_at", "count")


@dataclass(frozen=True)
class Claim:
    """A statement about one picture."""

    kind: str
    """One of `languages.base.STATEMENTS`, or "count"."""
    mentions: tuple[Mention, ...] = ()
    number: int = 0
    """Number of things, for kind "count"."""
    material: str = "wood"
    """For kind "made_of"."""


@dataclass(frozen=True)
class Question:
    """A question about one picture, with its English answer."""

    kind: str
    mentions: tuple[Mention, ...]
    answer: str


@dataclass(frozen=True)
class PairClaim:
    """A statement about two pictures."""

    kind: str
    mentions: tuple[Mention, ...]


ANSWERS: tuple[str, ...] = ("yes", "no") + COLOURS + SHAPES + SIZES + PLACES + _NUMBERS
"""Every answer that a question can have."""


def claim_text(claim: Claim | Question | PairClaim, language: Language, rng: Random) -> str:
    """The claim or question in words, without capital and closing mark."""
    if isinstance(claim, Claim) and claim.kind == "count":
        return language.count(claim.number)
    material = claim.material if isinstance(claim, Claim) else "wood"
    return language.phrase(claim.kind, claim.mentions, rng, material)


def matching(mention: Mention, scene: Scene) -> list[Thing]:
    """The things of the scene for which every fact of the mention is right."""
    facts = {fact: value for fact, value in vars(mention).items() if value is not None}
    return [thing for thing in scene.things if all(getattr(thing, fact) == value for fact, value in facts.items())]


def holds(claim: Claim, scene: Scene) -> bool | None:
    """Whether the picture makes the claim true; None when the picture cannot tell."""
    if claim.kind == "made_of":
        return None
    if claim.kind == "count":
        return len(scene.things) == claim.number
    is_there = bool(matching(claim.mentions[0], scene))
    return not is_there if claim.kind == "absent" else is_there


def pair_holds(claim: PairClaim, left: Scene, right: Scene) -> bool:
    """Whether the two pictures make the claim true."""
    on_left, on_right = (bool(matching(claim.mentions[0], scene)) for scene in (left, right))
    if claim.kind == "pair_left":
        return on_left
    if claim.kind == "pair_right":
        return on_right
    if claim.kind == "pair_both":
        return on_left and on_right
    return on_left and bool(matching(claim.mentions[1], right))


def draw_claim(scene: Scene, truth: bool | None, rng: Random) -> Claim:
    """A claim that the scene makes true, false, or (None) leaves open."""
    while True:
        claim = _candidate(scene, truth, rng)
        if holds(claim, scene) is truth and _is_allowed(claim.mentions, scene):
            return claim


def draw_question(scene: Scene, rng: Random) -> Question:
    """A question with exactly one right answer. All kinds that the scene allows are equally likely."""
    thing = rng.choice(scene.things)
    one_shape = len(matching(thing.mention("shape"), scene)) == 1
    one_colour = len(matching(thing.mention("colour"), scene)) == 1
    mention = thing.mention("shape", "colour")
    questions = [
        Question("q_colour_at", (thing.mention("place"),), thing.colour),
        Question("q_shape_at", (thing.mention("place"),), thing.shape),
        Question("q_size", (mention,), thing.size),
        Question("q_where", (mention,), thing.place),
        Question("q_count", (), _NUMBERS[len(scene.things) - 1]),
    ]
    if one_shape:
        questions.append(Question("q_colour", (thing.mention("shape"),), thing.colour))
    if one_colour:
        questions.append(Question("q_shape", (thing.mention("colour"),), thing.shape))
    truth = rng.random() < 0.5
    asked_for = mention if truth else _false_claim(scene, "exists", rng).mentions[0]
    questions.append(Question("q_exists", (asked_for,), "yes" if truth else "no"))
    return rng.choice(questions)


def _false_claim(scene: Scene, kind: str, rng: Random) -> Claim:
    """A false claim of the given kind, which must be one that a picture can decide."""
    while True:
        claim = draw_claim(scene, False, rng)
        if claim.kind == kind:
            return claim


def draw_pair_claim(left: Scene, right: Scene, truth: bool, rng: Random) -> PairClaim:
    """A claim about two pictures that they make true or false."""
    scenes = (left, right)
    while True:
        kind = rng.choice(("pair_left", "pair_right", "pair_both", "pair_two"))
        if kind == "pair_both":
            thing = rng.choice(rng.choice(scenes).things)
            mentions: tuple[Mention, ...] = (thing.mention(rng.choice(("shape", "colour"))),)
        else:
            # False claims describe things of either picture, so that a reader who mixes the two up is wrong.
            pool = [left.things + right.things] * 2 if not truth else [left.things, right.things]
            first, second = (rng.choice(things).mention("shape", "colour") for things in pool)
            mentions = {"pair_left": (first,), "pair_right": (second,), "pair_two": (first, second)}[kind]
            if not truth and rng.random() < 0.5:
                mentions = (_changed(mentions[0], rng.choice(("shape", "colour")), rng),) + mentions[1:]
        claim = PairClaim(kind, mentions)
        if pair_holds(claim, left, right) is truth:
            return claim


def _candidate(scene: Scene, truth: bool | None, rng: Random) -> Claim:
    """A claim that may have the wanted truth. The caller checks it."""
    thing = rng.choice(scene.things)
    if truth is None:
        return Claim("made_of", (thing.mention("shape", "colour"),), material=rng.choice(MATERIALS))
    kind = rng.choice(_DECIDABLE)
    if kind == "count":
        return Claim(kind, number=rng.randint(1, 3))
    if kind == "absent":
        mention = thing.mention("shape", "colour")
        return Claim(kind, (_changed(mention, rng.choice(("shape", "colour")), rng) if truth else mention,))
    if kind == "is_colour" and len(matching(thing.mention("shape"), scene)) > 1:
        kind = "exists"  # "the star is ..." needs a picture with one star
    mention = thing.mention(*_FACTS[kind])
    if not truth:
        # "there is a ..." may be wrong in any fact. "the ... is ..." must be about a thing that is there.
        wrong = rng.choice(_FACTS[kind]) if kind.startswith("exists") else _FACTS[kind][-1]
        mention = _changed(mention, wrong, rng)
    return Claim(kind, (mention,))


def _changed(mention: Mention, fact: str, rng: Random) -> Mention:
    """The mention with another value of one fact."""
    others = [value for value in _VALUES[fact] if value != getattr(mention, fact)]
    return replace(mention, **{fact: rng.choice(others)})


def _is_allowed(mentions: tuple[Mention, ...], scene: Scene) -> bool:
    """Whether a text of the scene may name these. A text of a training scene may name no held-out combination."""
    return shows_held_out(scene) or not any(
        mention.shape and mention.colour and mention.place and is_held_out(mention.shape, mention.colour, mention.place)
        for mention in mentions
    )
