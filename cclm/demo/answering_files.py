"""Files of GQA and xGQA: questions about a picture, with answers of one or two words."""

from __future__ import annotations

from typing import Any, NamedTuple

from cclm.demo.claims import ANSWERS, Question, claim_text, draw_question
from cclm.demo.languages import BY_TASK
from cclm.demo.scenes import Scene, distinct_test_scenes, training_scene
from cclm.demo.world_writer import WorldWriter

_SHOTS = (1, 5, 10, 20, 25, 48)
"""Pictures of each few-shot file."""
_GQA = "iglue/datasets/gqa/annotations"
_XGQA = "iglue/datasets/xGQA/annotations/few_shot"
_QUESTIONS_PER_PICTURE = 4


class _Entry(NamedTuple):
    """A question of a file, apart from its language."""

    picture: str
    """Name of the picture's file without ending."""
    identity: str
    """Id of the question."""
    question: Question


def write_questions(world: WorldWriter, train: int, test: int) -> None:
    """GQA in English; xGQA's tests and few-shot files in every language, with English answers.

    Args:
        train, test: scenes of the training set, and of each validation and test set.
    """
    tests = distinct_test_scenes(2 * test, world.rng("gqa", "test"))
    scenes = {
        "train": [training_scene(world.rng("gqa", "train", number)) for number in range(train)],
        "few": [training_scene(world.rng("gqa", "few", number)) for number in range(_SHOTS[-1])],
        "valid": tests[:test],
        "test": tests[test:],
    }
    entries: dict[str, list[_Entry]] = {}
    for column, split in enumerate(scenes):
        entries[split] = _entries(world, split, 2_000_000 * (column + 1), scenes[split])
    for split, name in (("train", "train"), ("valid", "valid"), ("test", "testdev")):
        world.json(f"{_GQA}/{name}.json", _gqa_list(world, entries[split]), f"GQA {name}")
    world.json(f"{_GQA}/testdev_balanced_questions.json", _xgqa_dict(world, "en", entries["test"]), "GQA testdev", 0)
    order = world.rng("gqa", "answers").sample(ANSWERS, len(ANSWERS))
    world.json(f"{_GQA}/trainval_ans2label.json", {a: ANSWERS.index(a) for a in order}, "GQA answers")
    world.json(f"{_GQA}/trainval_label2ans.json", list(ANSWERS), "GQA answers", 0)
    for code in BY_TASK["xgqa"]:
        world.json(f"{_XGQA}/{code}/test.json", _xgqa_dict(world, code, entries["test"]), "xGQA test")
        world.json(f"{_XGQA}/{code}/dev.json", _xgqa_dict(world, code, entries["valid"]), "xGQA dev")
        for shots in _SHOTS:
            few = _xgqa_dict(world, code, entries["few"][: shots * _QUESTIONS_PER_PICTURE])
            world.json(f"{_XGQA}/{code}/train_{shots}.json", few, "xGQA few-shot")


def _entries(world: WorldWriter, split: str, first: int, scenes: list[Scene]) -> list[_Entry]:
    """Draw the pictures and choose different questions for each. Picture names are numbers from `first` on."""
    entries = []
    for number, scene in enumerate(scenes):
        name = f"{'' if split == 'train' else 'n'}{first + number}"
        world.picture(f"images/gqa/{name}.jpg", scene)
        rng = world.rng("gqa", split, number)
        chosen: list[Question] = []
        while len(chosen) < _QUESTIONS_PER_PICTURE:
            question = draw_question(scene, rng)
            if question not in chosen:
                chosen.append(question)
                entries.append(_Entry(name, str(10 * (first + number) + len(chosen)), question))
    return entries


def _gqa_list(world: WorldWriter, entries: list[_Entry]) -> list[dict[str, Any]]:
    return [
        {
            "img_id": entry.picture,
            "label": {entry.question.answer: 1.0},
            "question_id": entry.identity,
            "sent": _question_text(world, "en", entry),
        }
        for entry in entries
    ]


def _xgqa_dict(world: WorldWriter, code: str, entries: list[_Entry]) -> dict[str, dict[str, Any]]:
    return {
        entry.identity: {
            "question": _question_text(world, code, entry),
            "imageId": entry.picture,
            "isBalanced": True,
            "answer": entry.question.answer,
            "fullAnswer": entry.question.answer.capitalize() + ".",
        }
        for entry in entries
    }


def _question_text(world: WorldWriter, code: str, entry: _Entry) -> str:
    language = BY_TASK["xgqa"][code]
    return language.question(claim_text(entry.question, language, world.rng("gqa", "words", code, entry.identity)))
