"""Captions of whole scenes."""

from __future__ import annotations

from random import Random

from cclm.demo.languages.base import Language
from cclm.demo.scenes import Scene

ALL_FACTS = ("shape", "colour", "size", "place")


def caption(scene: Scene, language: Language, rng: Random, facts: tuple[str, ...] = ALL_FACTS) -> str:
    """A sentence that names every thing of the scene with the given facts."""
    return language.sentence(language.caption([thing.mention(*facts) for thing in scene.things], rng))
