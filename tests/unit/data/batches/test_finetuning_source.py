"""Order of fine-tuning examples, and what becomes of annotations."""

import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from cclm.config.sources import AugmentConfig
from cclm.data.annotations.annotation_sets import ImageRef, QuestionEntry, QuestionSet
from cclm.data.batches.finetuning_collate import collate_questions
from cclm.data.batches.finetuning_source import FinetuneSource
from cclm.data.examples.entries import group_entries
from cclm.data.examples.finetuning_examples import Preprocessor, QuestionExamples
from cclm.data.examples.texts import TextRules
from cclm.data.examples.tokenizer import Tokenizer
from cclm.errors import UserError


class Numbers:
    """Examples that are their number and a random one; `broken` cannot be read."""

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def example(self, number: int, rng: random.Random) -> tuple[int, float]:
        if number == self.broken:
            raise UserError(f"train.json, entry {number}: the image cannot be read")
        return number, rng.random()


def as_it_is(examples: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return examples


def batches(examples: Numbers, size: int, count: int, start: int = 0, rank: int = 0, world: int = 1, workers: int = 0):
    source = FinetuneSource(examples, as_it_is, size, seed=7, num_workers=workers, rank=rank, world_size=world)
    stream = source.batches(start)
    taken = [next(stream) for _ in range(count)]
    stream.close()
    return taken


def test_every_example_once_an_epoch_whatever_the_processes_and_the_start() -> None:
    whole = batches(Numbers(10), 4, 10)
    seen = [number for batch in whole for number, _ in batch]
    assert all(seen.count(number) == 4 for number in range(10))  # four epochs of ten are ten batches of four
    assert len({pair for batch in whole for pair in batch}) == 40  # drawn anew in each epoch
    parts = [batches(Numbers(10), 4, 10, rank=rank, world=2) for rank in (0, 1)]
    assert [mine + theirs for mine, theirs in zip(*parts, strict=True)] == whole
    assert batches(Numbers(10), 4, 7, start=3) == whole[3:]


def test_a_set_smaller_than_a_batch() -> None:
    seen = [number for batch in batches(Numbers(3), 8, 3) for number, _ in batch]
    assert all(seen.count(number) == 8 for number in range(3))


@pytest.mark.slow
def test_loader_processes_give_the_same_batches_and_their_errors_are_sentences() -> None:
    assert batches(Numbers(10), 4, 6, workers=2) == batches(Numbers(10), 4, 6)
    with pytest.raises(UserError, match="^train.json, entry 5: the image cannot be read$"):
        batches(Numbers(10, broken=5), 4, 3, workers=1)


@pytest.fixture
def questions(tmp_path: Path) -> QuestionSet:
    image = Image.new("RGB", (40, 40), "red")
    image.paste("blue", (20, 0, 40, 40))
    image.save(tmp_path / "a.png")
    asked = [("What is on the LEFT?", ("red", "blue")), ("What colour is it", ("on the right",)), ("What", ("red",))]
    return QuestionSet(
        files=("q.json",),
        entries=[
            QuestionEntry(number, ImageRef(str(tmp_path / "a.png")), question, answers, f"q.json, entry {number}")
            for number, (question, answers) in enumerate(asked)
        ],
    )


def test_answers_weigh_alike_and_sides_are_not_mirrored(questions: QuestionSet, tokenizer: Tokenizer) -> None:
    augment = AugmentConfig(crop_scale=(1.0, 1.0), horizontal_flip=1.0, rand_augment_ops=0)
    preprocessor = Preprocessor(16, augment, TextRules(30, 40, questions=True), tokenizer)
    examples = QuestionExamples(questions, preprocessor, 40)
    batch = collate_questions([examples.example(i, random.Random(i)) for i in range(3)], tokenizer.pad)
    assert batch.weights.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert batch.question_of_answer.tolist() == [0, 0, 1, 2]
    left, right = batch.images[:, 0, 8, 2], batch.images[:, 0, 8, -3]  # red channel
    assert (left > right).tolist() == [True, True, False]  # only the third may be mirrored
    assert batch.answers.data[0, : batch.answers.lengths[0]].tolist() == tokenizer.ids("red", 40)


def test_an_empty_question_is_asked_and_an_empty_sentence_is_named(tokenizer: Tokenizer) -> None:
    assert TextRules(30, 40, questions=True).ids("?", tokenizer, "here") == [tokenizer.bos, tokenizer.eos]
    with pytest.raises(UserError, match="^x.jsonl:3: '...': .*empty"):
        TextRules(30, 40, questions=False).ids("...", tokenizer, "x.jsonl:3")


def test_entries_about_one_image_go_together_whatever_their_language(questions: QuestionSet) -> None:
    groups = group_entries({"en": questions, "de": questions}, 8)
    assert len(groups) == 1 and len(groups[0].images) == 1
    assert [(each.set_name, each.entry) for each in groups[0].texts] == [
        (name, entry) for name in ("en", "de") for entry in range(3)
    ]
    assert torch.tensor(groups[0].rows).eq(0).all()
