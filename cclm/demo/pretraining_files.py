"""The pre-training files (line-JSON) and the held-out retrieval sets."""

from __future__ import annotations

import base64
from random import Random
from typing import Any

from cclm.demo.captions import ALL_FACTS, caption
from cclm.demo.claims import Claim, PairClaim, claim_text, draw_claim, draw_pair_claim, draw_question
from cclm.demo.draw import draw, jpeg
from cclm.demo.languages import LANGUAGES
from cclm.demo.scenes import Scene, distinct_test_scenes, training_scene
from cclm.demo.world_writer import WorldWriter

# Real captions leave things out. Most of these name all facts.
_CAPTION_FACTS = (ALL_FACTS,) * 6 + (("shape", "colour", "place"),) + (("shape", "colour", "size"),)
_OTHERS = tuple(code for code in LANGUAGES if code != "en")
_PARTS = 8


def write_pretraining(
    world: WorldWriter, image_text: int, regions: int, mono: int, parallel: int
) -> dict[str, list[str]]:
    """Write the four kinds of pre-training file. Returns all their texts by language.

    Args:
        image_text, regions, mono, parallel: records of each kind.
    """
    texts: dict[str, list[str]] = {code: [] for code in LANGUAGES}
    folder = "data/pretrain"
    world.parts(
        f"{folder}/image_text",
        [_image_text(world, number, texts) for number in range(image_text)],
        _PARTS,
        "image_text",
    )
    world.parts(
        f"{folder}/regions", [_regions(world, number, texts) for number in range(regions)], _PARTS // 2, "regions"
    )
    world.parts(
        f"{folder}/image_text_mono",
        [_mono(world, number, texts) for number in range(mono)],
        _PARTS // 2,
        "image_text_mono",
    )
    world.parts(
        f"{folder}/parallel_text",
        [_parallel(world, number, texts) for number in range(parallel)],
        _PARTS // 2,
        "parallel_text",
    )
    return texts


def write_held_out(world: WorldWriter, test: int, validation: int) -> list[Scene]:
    """Write `data/heldout`: the same scenes with a caption in each language. Returns the test scenes.

    Args:
        test, validation: scenes of each set.
    """
    test_scenes = distinct_test_scenes(test, world.rng("heldout"))
    sets = {"": test_scenes, "val.": distinct_test_scenes(validation, world.rng("heldout", "val"), avoid=test_scenes)}
    for prefix, scenes in sets.items():
        paths = [f"heldout/{prefix.replace('.', '_')}{number:05d}.jpg" for number in range(len(scenes))]
        for path, scene in zip(paths, scenes, strict=True):
            world.picture(f"images/{path}", scene)
        for code, language in LANGUAGES.items():
            entries = [
                {
                    "image": path,
                    "caption": [caption(scene, language, world.rng("heldout", prefix, code, number))],
                    "image_id": number,
                }
                for number, (path, scene) in enumerate(zip(paths, scenes, strict=True))
            ]
            world.json(f"data/heldout/{prefix}{code}.json", entries, f"heldout {prefix or 'test.'}captions")
    return test_scenes


def _languages(rng: Random) -> list[str]:
    """English and two to five others."""
    return ["en", *sorted(rng.sample(_OTHERS, rng.randint(2, 5)), key=_OTHERS.index)]


def _keep(texts: dict[str, list[str]], by_language: dict[str, str]) -> dict[str, str]:
    """`by_language` itself, after adding it to `texts`."""
    for code, text in by_language.items():
        texts[code].append(text)
    return by_language


def _image_text(world: WorldWriter, number: int, texts: dict[str, list[str]]) -> dict[str, Any]:
    rng = world.rng("image_text", number)
    scene = training_scene(rng)
    # One choice for all languages: the English caption, whose "left" and "right" a trainer may look for, shows whether
    # any of them names a side.
    facts = rng.choice(_CAPTION_FACTS)
    captions = {code: caption(scene, LANGUAGES[code], rng, facts) for code in _languages(rng)}
    return {"binary": world.base64_jpeg(scene), "caption": _keep(texts, captions)}


def _regions(world: WorldWriter, number: int, texts: dict[str, list[str]]) -> dict[str, Any]:
    rng = world.rng("regions", number)
    scene = training_scene(rng)
    codes = _languages(rng)
    drawing = draw(scene, world.side)
    record: dict[str, Any] = {"binary": base64.b64encode(jpeg(drawing.image)).decode("ascii")}
    if rng.random() < 0.5:
        # Places are left out, since the trainer crops around a region.
        record["caption"] = _keep(
            texts, {code: caption(scene, LANGUAGES[code], rng, ("shape", "colour", "size")) for code in codes}
        )
    record["elems"] = []
    for thing, box in zip(scene.things, drawing.boxes, strict=True):
        with_attributes = rng.random() < 0.4
        mention = thing.mention("shape", "size") if with_attributes else thing.mention("shape", "colour", "size")
        element: dict[str, Any] = {
            "bb": list(box),
            "caption": _keep(texts, {code: LANGUAGES[code].phrase("region", [mention], rng) for code in codes}),
        }
        if with_attributes:
            attributes = {code: LANGUAGES[code].phrase("attribute", [thing.mention()], rng) for code in codes}
            element["attributes"] = _keep(texts, attributes)
        record["elems"].append(element)
    return record


def _mono(world: WorldWriter, number: int, texts: dict[str, list[str]]) -> dict[str, Any]:
    rng = world.rng("image_text_mono", number)
    scene = training_scene(rng)
    code = rng.choice(_OTHERS)
    captions = [caption(scene, LANGUAGES[code], rng) for _ in range(rng.choice((1, 2)))]
    texts[code] += captions
    return {"binary": world.base64_jpeg(scene), "desc": captions if len(captions) > 1 else captions[0]}


def _parallel(world: WorldWriter, number: int, texts: dict[str, list[str]]) -> dict[str, Any]:
    """Mostly captions, and some questions and statements, so that their words are learnt across languages, too."""
    rng = world.rng("parallel_text", number)
    pair = ["en", rng.choice(_OTHERS)] if rng.random() < 0.7 else rng.sample(_OTHERS, 2)
    rng.shuffle(pair)
    first, second = (LANGUAGES[code] for code in pair)
    scene = training_scene(rng)
    kind = rng.random()
    if kind < 0.5:
        facts = rng.choice(_CAPTION_FACTS)
        source, target = (caption(scene, language, rng, facts) for language in (first, second))
    elif kind < 0.7:
        question = draw_question(scene, rng)
        source, target = (language.question(claim_text(question, language, rng)) for language in (first, second))
    else:
        claim: Claim | PairClaim
        if kind < 0.85:
            claim = draw_claim(scene, rng.choice((True, False, None)), rng)
        else:
            claim = draw_pair_claim(scene, training_scene(rng), rng.random() < 0.5, rng)
        source, target = (language.sentence(claim_text(claim, language, rng)) for language in (first, second))
    _keep(texts, {pair[0]: source, pair[1]: target})
    return {"source_text": source, "target_text": target}
