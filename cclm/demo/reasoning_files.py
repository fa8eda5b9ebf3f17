"""XVNLI (is a sentence true of the picture?) and GQA / xGQA (questions with one-word answers)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from cclm.demo.claims import ANSWERS, Question, claim_text, draw_claim, draw_question
from cclm.demo.files import World
from cclm.demo.languages import BY_TASK, LANGUAGES
from cclm.demo.pretraining import caption
from cclm.demo.scenes import Scene, distinct_test_scenes, training_scene

SHOTS = (1, 5, 10, 20, 25, 48)
_XVNLI = "iglue/datasets/XVNLI"
_GQA = "iglue/datasets/gqa/annotations"
_XGQA = "iglue/datasets/xGQA/annotations/few_shot"
_LABELS = {"entailment": True, "contradiction": False, "neutral": None}
_QUESTIONS_PER_PICTURE = 4

Asked = list[tuple[str, str, Question]]
"""Picture name, question id, question."""


def write_xvnli(world: World, flickr: Mapping[str, Mapping[str, Scene]]) -> None:
    """XVNLI: three sentences a picture. Neutral ones say what something is made of, which no drawing shows."""
    for split, name in (("train", "train"), ("valid", "dev")):
        records = _xvnli_records(world, "en", flickr[split].items(), split)
        world.json_lines(f"{_XVNLI}/annotations/en/{name}.jsonl", records, f"XVNLI {name}")
    for code in LANGUAGES:
        test = _xvnli_records(world, code, flickr["test"].items(), "test")
        world.json_lines(f"{_XVNLI}/annotations/{code}/test.jsonl", test, "XVNLI test")
        for shots in SHOTS:
            records = _xvnli_records(world, code, islice(flickr["few"].items(), shots), "few")
            world.json_lines(f"{_XVNLI}/annotations/{code}/train_{shots}.jsonl", records, "XVNLI few-shot")
        if code != "en":
            records = _xvnli_records(world, "en", flickr["test"].items(), "test", wording=f"gmt {code}")
            path = f"{_XVNLI}/annotations_machine-translate/{code}/test.jsonl"
            world.json_lines(path, records, "XVNLI machine-translated")


def write_questions(world: World, train: int, test: int) -> None:
    """GQA in English, xGQA's tests and few-shot files in every language (English answers)."""
    tests = distinct_test_scenes(2 * test, world.rng("gqa", "test"))
    scenes = {
        "train": [training_scene(world.rng("gqa", "train", number)) for number in range(train)],
        "few": [training_scene(world.rng("gqa", "few", number)) for number in range(SHOTS[-1])],
        "valid": tests[:test],
        "test": tests[test:],
    }
    asked: dict[str, Asked] = {}
    for column, split in enumerate(scenes):
        asked[split] = _ask(world, split, 2_000_000 * (column + 1), scenes[split])
    for split, name in (("train", "train"), ("valid", "valid"), ("test", "testdev")):
        world.json(f"{_GQA}/{name}.json", _gqa_list(world, asked[split]), f"GQA {name}")
    world.json(f"{_GQA}/testdev_balanced_questions.json", _xgqa_dict(world, "en", asked["test"]), "GQA testdev", 0)
    order = world.rng("gqa", "answers").sample(ANSWERS, len(ANSWERS))
    world.json(f"{_GQA}/trainval_ans2label.json", {a: ANSWERS.index(a) for a in order}, "GQA answers")
    world.json(f"{_GQA}/trainval_label2ans.json", list(ANSWERS), "GQA answers", 0)
    for code in BY_TASK["xgqa"]:
        world.json(f"{_XGQA}/{code}/test.json", _xgqa_dict(world, code, asked["test"]), "xGQA test")
        world.json(f"{_XGQA}/{code}/dev.json", _xgqa_dict(world, code, asked["valid"]), "xGQA dev")
        for shots in SHOTS:
            few = _xgqa_dict(world, code, asked["few"][: shots * _QUESTIONS_PER_PICTURE])
            world.json(f"{_XGQA}/{code}/train_{shots}.json", few, "xGQA few-shot")


def _xvnli_records(
    world: World, code: str, pictures: Iterable[tuple[str, Scene]], split: str, wording: str = ""
) -> list[dict[str, Any]]:
    """`wording` seeds how things are said; what is said is the same in all languages."""
    language = LANGUAGES[code]
    records = []
    for name, scene in pictures:
        premise = caption(scene, language, world.rng("xvnli", "premise", code, name, wording))
        labels = list(_LABELS)
        world.rng("xvnli", "order", name).shuffle(labels)
        for label in labels:
            claim = draw_claim(scene, _LABELS[label], world.rng("xvnli", split, name, label))
            text = claim_text(claim, language, world.rng("xvnli", split, name, label, code, wording))
            records.append(
                {
                    "gold_label": label,
                    "sentence1": premise,
                    "sentence2": language.sentence(text),
                    "captionID": f"{name}.jpg#0",
                    "pairID": f"{name}.jpg#0r1{label[0]}",
                    "Flikr30kID": name,
                }
            )
    return records


def _ask(world: World, split: str, first: int, scenes: list[Scene]) -> Asked:
    """Draw the pictures and choose different questions for each."""
    asked: Asked = []
    for number, scene in enumerate(scenes):
        name = f"{'' if split == 'train' else 'n'}{first + number}"
        world.picture(f"images/gqa/{name}.jpg", scene)
        rng = world.rng("gqa", split, number)
        chosen: list[Question] = []
        while len(chosen) < _QUESTIONS_PER_PICTURE:
            question = draw_question(scene, rng)
            if question not in chosen:
                chosen.append(question)
                asked.append((name, str(10 * (first + number) + len(chosen)), question))
    return asked


def _gqa_list(world: World, asked: Asked) -> list[dict[str, Any]]:
    return [
        {
            "img_id": name,
            "label": {question.answer: 1.0},
            "question_id": identity,
            "sent": _words(world, "en", identity, question),
        }
        for name, identity, question in asked
    ]


def _xgqa_dict(world: World, code: str, asked: Asked) -> dict[str, dict[str, Any]]:
    return {
        identity: {
            "question": _words(world, code, identity, question),
            "imageId": name,
            "isBalanced": True,
            "answer": question.answer,
            "fullAnswer": question.answer.capitalize() + ".",
        }
        for name, identity, question in asked
    }


def _words(world: World, code: str, identity: str, question: Question) -> str:
    language = BY_TASK["xgqa"][code]
    return language.question(claim_text(question, language, world.rng("gqa", "words", code, identity)))
