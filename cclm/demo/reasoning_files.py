"""Files of NLVR2 (English) and MaRVL (the other languages): is a sentence true of two pictures?"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from cclm.demo.claims import claim_text, draw_pair_claim
from cclm.demo.languages import BY_TASK, LANGUAGES
from cclm.demo.languages.base import SHAPES, Language
from cclm.demo.scenes import Scene, distinct_test_scenes, training_scene
from cclm.demo.world_writer import WorldWriter

_NLVR2 = "iglue/datasets/nlvr2/annotations"
_MARVL = "iglue/datasets/marvl"
_FOLDERS = {"train": "images/train", "dev": "dev", "test1": "test1"}
"""Split -> folder that NLVR2's own archive unpacks to, below images/nlvr2."""
_MARVL_SHOTS = {"1": 1, "10": 10, "10x2": 20}
"""Few-shot file -> its number of sentences. Each comes with four pairs, two of them true."""
_FEW_SHOT_PICTURES = 24
_CONCEPTS = 4


class _MarvlStatement(NamedTuple):
    """A statement about two pictures of a pool."""

    record: dict[str, Any]
    """Without the names of its pictures."""
    english: str
    """Its caption in English."""
    pair: tuple[int, int]
    """Places of the left and the right picture in the pool."""


def write_pairs(world: WorldWriter, train: int, test: int) -> None:
    """NLVR2 and MaRVL, and the lists that the published preprocessing makes of them.

    The lists are in `data/finetune/nlvr_en`, with pictures below `images/nlvr2`, and in `data/marvl`, with pictures
    below the world's folder.

    Args:
        train: half the number of NLVR2's training statements. A pair of pictures has four statements.
        test: statements of each other set of NLVR2, and of each language of MaRVL.
    """
    for split, statements in (("train", 2 * train), ("dev", test), ("test1", test)):
        _nlvr2(world, split, max(1, statements // 4))
    for code, language in BY_TASK["marvl"].items():
        _marvl_zero_shot(world, language, test)
        _marvl_few_shot(world, code, language)


def _nlvr2(world: WorldWriter, split: str, pairs: int) -> None:
    records: list[dict[str, Any]] = []
    listed = []
    if split == "train":
        scenes = [training_scene(world.rng("nlvr2", split, number)) for number in range(2 * pairs)]
    else:
        scenes = distinct_test_scenes(2 * pairs, world.rng("nlvr2", split))
    for pair in range(pairs):
        left, right = scenes[2 * pair : 2 * pair + 2]
        name, directory = f"{split}-{100 + pair}-0", pair % 8
        folder = _FOLDERS[split] + (f"/{directory}" if split == "train" else "")
        images = [f"{folder}/{name}-img{side}.png" for side in (0, 1)]
        for path, scene in zip(images, (left, right), strict=True):
            world.picture(f"images/nlvr2/{path}", scene)
        for number in range(4):
            rng = world.rng("nlvr2", split, pair, number)
            truth = str(number % 2 == 0)
            claim = draw_pair_claim(left, right, truth == "True", rng)
            sentence = LANGUAGES["en"].sentence(claim_text(claim, LANGUAGES["en"], rng))
            record = {
                "validation": {"1": truth},
                "sentence": sentence,
                "left_url": f"https://example.org/{name}-0.png",
                "writer": "1",
                "label": truth,
                "right_url": f"https://example.org/{name}-1.png",
                "synset": "shape",
                "query": "drawn shapes",
                "identifier": f"{name}-{number}",
                "extra_validations": {},
            }
            records.append(record | {"directory": directory} if split == "train" else record)
            listed.append({"sentence": sentence, "label": truth, "images": images})
    own = "test" if split == "test1" else split
    world.json_lines(f"{_NLVR2}/{own}.jsonl", records, f"NLVR2 {own}")
    world.json(f"data/finetune/nlvr_en/nlvr_{own}.json", listed, f"NLVR2 {own}", 0)


def _marvl_zero_shot(world: WorldWriter, language: Language, statements: int) -> None:
    """The test of a language, about a few concepts: native words for shapes. All pictures of a pool show its shape."""
    code = language.code
    records, translated, listed = [], [], []
    rng = world.rng("marvl", code)
    shapes = rng.sample(SHAPES, _CONCEPTS)
    for position, shape in enumerate(shapes):
        number = SHAPES.index(shape) + 1
        concept = f"{number}-{language.shape_names[shape]}"
        share = range(position * statements // _CONCEPTS, (position + 1) * statements // _CONCEPTS)
        if not share:
            continue
        pool = _pool(world, code, shape, max(2, len(share) // 3))
        folder = f"images/marvl-images/{code}/images/{concept}"
        for index, scene in enumerate(pool):
            world.picture(f"{folder}/{number}-{index}.jpg", scene)
        for index in share:
            statement = _marvl_statement(rng, language, concept, pool, index, truth=index % 2 == 0)
            left, right = (f"{number}-{place}.jpg" for place in statement.pair)
            record = statement.record | {"left_img": left, "right_img": right}
            records.append(record)
            translated.append(record | {"caption": statement.english})
            listed.append(_listed(record, [f"{folder}/{left}", f"{folder}/{right}"]))
    world.json_lines(f"{_MARVL}/zero_shot/annotations/marvl-{code}.jsonl", records, "MaRVL test")
    if code != "en":
        path = f"{_MARVL}/zero_shot/annotations_machine-translate/marvl-{code}_gmt.jsonl"
        world.json_lines(path, translated, "MaRVL machine-translated")
    world.json(f"data/marvl/marvl-{code}.json", listed, "MaRVL test", 0)


def _marvl_few_shot(world: WorldWriter, code: str, language: Language) -> None:
    rng = world.rng("marvl", "few", code)
    concept = f"1-{language.shape_names[SHAPES[0]]}"
    pool = [training_scene(world.rng("marvl", "few", code, number)) for number in range(_FEW_SHOT_PICTURES)]
    for index, scene in enumerate(pool):
        world.picture(f"images/marvl_fewshot/{code}/all/1-n-{index}.jpg", scene)
    records, listed = [], []
    for index in range(4 * max(_MARVL_SHOTS.values())):
        statement = _marvl_statement(rng, language, concept, pool, index, truth=index % 2 == 0)
        left, right = (f"1-n-{place}.jpg" for place in statement.pair)
        record = statement.record | {"left_img": f"{concept}/{left}", "right_img": f"{concept}/{right}"}
        records.append(record)
        listed.append(_listed(record, [f"images/marvl_fewshot/{code}/all/{name}" for name in (left, right)]))
    for shots, sentences in _MARVL_SHOTS.items():
        path = f"{_MARVL}/few_shot/annotations/marvl-{code}_train{shots}.jsonl"
        world.json_lines(path, records[: 4 * sentences], "MaRVL few-shot")
        world.json(f"data/marvl/marvl-{code}_train{shots}.json", listed[: 4 * sentences], "MaRVL few-shot", 0)


def _pool(world: WorldWriter, code: str, shape: str, number: int) -> list[Scene]:
    """Test scenes that all show the shape."""
    rng = world.rng("marvl", code, shape)
    pool: list[Scene] = []
    while len(pool) < number:
        drawn = distinct_test_scenes(8, rng, avoid=pool)
        pool += [scene for scene in drawn if any(thing.shape == shape for thing in scene.things)]
    return pool[:number]


def _marvl_statement(
    rng: Random, language: Language, concept: str, pool: Sequence[Scene], index: int, truth: bool
) -> _MarvlStatement:
    left, right = rng.sample(range(len(pool)), 2)
    claim = draw_pair_claim(pool[left], pool[right], truth, rng)
    english = LANGUAGES["en"].sentence(claim_text(claim, LANGUAGES["en"], rng))
    record = {
        "concept": concept,
        "language": language.code,
        "caption": language.sentence(claim_text(claim, language, rng)),
        "left_img": "",
        "right_img": "",
        "chapter": "Shapes",
        "id": f"{language.code}-{index}",
        "label": truth,
    }
    return _MarvlStatement(record, english, (left, right))


def _listed(record: dict[str, Any], images: list[str]) -> dict[str, Any]:
    """The entry that the published preprocessing makes of a record."""
    return {"sentence": record["caption"], "label": str(record["label"]), "images": images}
