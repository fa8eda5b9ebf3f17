"""Statements and questions about scenes, apart from any language: what is said, and whether it is true.

A `Claim` becomes a sentence by `claim_text`; `holds` decides it on the scene. Texts for training scenes never name a
held-out combination, not even falsely.
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
# What each kind of statement tells of a thing; the last fact is the one that a false statement gets wrong.
_TOLD = {
    "exists": ("shape", "colour"),
    "exists_at": ("shape", "colour", "place"),
    "is_colour": ("shape", "colour"),
    "is_size": ("shape", "colour", "size"),
    "is_at": ("shape", "colour", "place"),
}
_DECIDABLE = ("exists", "exists_at", "absent", "is_colour", "is_size", "is_at", "count")


@dataclass(frozen=True)
class Claim:
    """A statement about one picture. `number` belongs to kind "count", `material` to "made_of"."""

    kind: str
    mentions: tuple[Mention, ...] = ()
    number: int = 0
    material: str = "wood"


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


def claim_text(claim: Claim | Question | PairClaim, language: Language, rng: Random) -> str:
    """The claim or question in words, without capital and closing mark."""
    if isinstance(claim, Claim) and claim.kind == "count":
        return language.count(claim.number)
    material = claim.material if isinstance(claim, Claim) else "wood"
    return language.say(claim.kind, claim.mentions, rng, material)


def matching(mention: Mention, scene: Scene) -> list[Thing]:
    """The things of the scene for which every told fact is right."""
    told = {fact: value for fact, value in vars(mention).items() if value is not None}
    return [thing for thing in scene.things if all(getattr(thing, fact) == value for fact, value in told.items())]


def holds(claim: Claim, scene: Scene) -> bool | None:
    """Whether the picture makes the claim true; None when the picture cannot tell."""
    if claim.kind == "made_of":
        return None
    if claim.kind == "count":
        return len(scene.things) == claim.number
    found = bool(matching(claim.mentions[0], scene))
    return not found if claim.kind == "absent" else found


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
        if holds(claim, scene) is truth and _sayable(claim.mentions, scene):
            return claim


def draw_question(scene: Scene, rng: Random) -> Question:
    """A question with exactly one right answer in the picture; all kinds equally often where the scene allows."""
    thing = rng.choice(scene.things)
    one_shape = len(matching(thing.mention("shape"), scene)) == 1
    one_colour = len(matching(thing.mention("colour"), scene)) == 1
    told = thing.mention("shape", "colour")
    questions = [
        Question("q_colour_at", (thing.mention("place"),), thing.colour),
        Question("q_shape_at", (thing.mention("place"),), thing.shape),
        Question("q_size", (told,), thing.size),
        Question("q_where", (told,), thing.place),
        Question("q_count", (), _NUMBERS[len(scene.things) - 1]),
    ]
    if one_shape:
        questions.append(Question("q_colour", (thing.mention("shape"),), thing.colour))
    if one_colour:
        questions.append(Question("q_shape", (thing.mention("colour"),), thing.shape))
    truth = rng.random() < 0.5
    exists = told if truth else draw_claim_of(scene, "exists", rng).mentions[0]
    questions.append(Question("q_exists", (exists,), "yes" if truth else "no"))
    return rng.choice(questions)


def draw_claim_of(scene: Scene, kind: str, rng: Random) -> Claim:
    """A false claim of one decidable kind."""
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
            # False claims describe things of either picture, so that mixing the two up is a mistake.
            pool = [left.things + right.things] * 2 if not truth else [left.things, right.things]
            first, second = (rng.choice(things).mention("shape", "colour") for things in pool)
            mentions = {"pair_left": (first,), "pair_right": (second,), "pair_two": (first, second)}[kind]
            if not truth and rng.random() < 0.5:
                mentions = (_changed(mentions[0], rng.choice(("shape", "colour")), rng),) + mentions[1:]
        claim = PairClaim(kind, mentions)
        if pair_holds(claim, left, right) is truth:
            return claim


def _candidate(scene: Scene, truth: bool | None, rng: Random) -> Claim:
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
        kind = "exists"  # "the star" must be one star
    mention = thing.mention(*_TOLD[kind])
    if not truth:
        # "there is a ..." may be wrong in any fact; "the ... is ..." must speak of a thing that is there.
        wrong = rng.choice(_TOLD[kind]) if kind.startswith("exists") else _TOLD[kind][-1]
        mention = _changed(mention, wrong, rng)
    return Claim(kind, (mention,))


def _changed(mention: Mention, fact: str, rng: Random) -> Mention:
    others = [value for value in _VALUES[fact] if value != getattr(mention, fact)]
    return replace(mention, **{fact: rng.choice(others)})


def _sayable(mentions: tuple[Mention, ...], scene: Scene) -> bool:
    """No text that goes with a training scene may name a held-out combination."""
    return shows_held_out(scene) or not any(
        mention.shape and mention.colour and mention.place and is_held_out(mention.shape, mention.colour, mention.place)
        for mention in mentions
    )
