"""Scenes: which things are where, and which combinations are kept for testing.

A triple (shape, colour, place) is *held out* by a fixed rule: every shape with every colour is held out at exactly one
place. Training therefore shows all shapes, colours, places and pairs of them, but never 64 of the 320 triples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from cclm.demo.languages.base import COLOURS, PLACES, SHAPES, SIZES, Mention

_COUNTS = (1, 2, 2, 2, 2, 2, 2, 2, 2, 3)
"""Numbers of things that are equally likely."""


@dataclass(frozen=True)
class Thing:
    """One drawn thing, in the words of `languages.base`."""

    shape: str
    colour: str
    size: str
    place: str

    def mention(self, *facts: str) -> Mention:
        """A mention with the named facts only; with all of them if none is named."""
        return Mention(**{fact: getattr(self, fact) for fact in facts or ("shape", "colour", "size", "place")})


@dataclass(frozen=True)
class Scene:
    """One to three things at different places, no two alike in shape and colour."""

    things: tuple[Thing, ...]
    look: int
    """Seed of what no sentence describes: small shifts, turns and tints of the drawing."""

    @property
    def content(self) -> frozenset[Thing]:
        """What the scene shows, whatever its look."""
        return frozenset(self.things)


def is_held_out(shape: str, colour: str, place: str) -> bool:
    """Whether no training split may show this combination."""
    return (SHAPES.index(shape) + COLOURS.index(colour) + PLACES.index(place)) % len(PLACES) == 0


def shows_held_out(scene: Scene) -> bool:
    """Whether at least one thing of the scene is a held-out combination."""
    return any(is_held_out(thing.shape, thing.colour, thing.place) for thing in scene.things)


def training_scene(rng: Random) -> Scene:
    """A scene without any held-out combination."""
    return _scene(rng, test=False)


def held_out_scene(rng: Random) -> Scene:
    """A scene with at least one held-out combination."""
    return _scene(rng, test=True)


def distinct_test_scenes(number: int, rng: Random, avoid: Sequence[Scene] = ()) -> list[Scene]:
    """Test scenes that differ in content from each other and from `avoid`."""
    seen = {scene.content for scene in avoid}
    scenes: list[Scene] = []
    while len(scenes) < number:
        scene = held_out_scene(rng)
        if scene.content not in seen:
            seen.add(scene.content)
            scenes.append(scene)
    return scenes


def _scene(rng: Random, test: bool) -> Scene:
    places = rng.sample(PLACES, rng.choice(_COUNTS))
    things: list[Thing] = []
    for number, place in enumerate(places):
        taken = {(thing.shape, thing.colour) for thing in things}
        while True:
            shape, colour = rng.choice(SHAPES), rng.choice(COLOURS)
            held_out = is_held_out(shape, colour, place)
            # In a test scene the first thing is held out and the others are free. Places are in random order already.
            allowed = (held_out or number > 0) if test else not held_out
            if allowed and (shape, colour) not in taken:
                break
        things.append(Thing(shape, colour, rng.choice(SIZES), place))
    return Scene(tuple(things), look=rng.getrandbits(32))
