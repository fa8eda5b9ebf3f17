"""Properties of the tasks beyond golden numbers."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cclm.checkpoints.initial import build_model
from cclm.config.model import ModelConfig, TextConfig, VisionConfig
from cclm.config.pretrain import ObjectiveConfig
from cclm.data.annotations.annotation_sets import ClassificationEntry, ClassificationSet, ImageRef, RetrievalSet
from cclm.data.batches.batch import (
    ImageTextBatch,
    JoinedTextBatch,
    MaskedText,
    ParallelTextBatch,
    RegionTextBatch,
)
from cclm.data.examples.texts import TextRules
from cclm.errors import UserError
from cclm.metrics.recall import retrieval_metrics
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.model.vision import region_states
from cclm.sequences import Sequences
from cclm.tasks.answering import AnsweringTask
from cclm.tasks.classification import ClassificationTask
from cclm.tasks.entry_evaluation import EntryTest, evaluate_entries
from cclm.tasks.pretraining_task import PretrainTask
from cclm.tasks.reasoning import LEFT, NEITHER, RIGHT, TextAssignmentTask, draw_pairs
from cclm.tasks.rescoring import EncodedViews, two_stage_scores
from cclm.tasks.retrieval_evaluation import RetrievalTest, evaluate_retrieval

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def model() -> CCLM:
    config = ModelConfig(
        vision=VisionConfig(image_size=64, embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=4),
        text=TextConfig(
            vocab_size=60,
            hidden_size=32,
            num_heads=2,
            intermediate_size=64,
            num_layers=4,
            num_text_layers=2,
            max_positions=32,
        ),
        embed_dim=16,
    )
    return build_model(config, seed=3).eval()


def texts(rows: int, seed: int = 0) -> Sequences:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (rows,), generator=generator)
    ids = torch.randint(4, 60, (rows, 8), generator=generator)
    ids[:, 0] = 0
    return Sequences(ids.masked_fill(torch.arange(8) >= lengths[:, None], 1), lengths)


def image_batch(rows: int) -> ImageTextBatch:
    text = texts(rows)
    masked = MaskedText(text, torch.arange(rows), torch.ones(rows, dtype=torch.int64), torch.full((rows,), 9))
    return ImageTextBatch(torch.randn(rows, 3, 64, 64, generator=torch.Generator().manual_seed(5)), text, masked)


def test_same_generator_same_losses_another_draws_others(model: CCLM) -> None:
    task, batch = PretrainTask(model, ObjectiveConfig()).eval(), image_batch(6)
    one, same = (task(batch, torch.Generator().manual_seed(1))["loss_itm"] for _ in range(2))
    others = {task(batch, torch.Generator().manual_seed(seed))["loss_itm"].item() for seed in range(2, 8)}
    assert torch.equal(one, same) and len(others) > 1


def test_temperature_is_clamped_before_use(model: CCLM) -> None:
    task = PretrainTask(model, ObjectiveConfig()).eval()
    for outside, bound in ((0.9, 0.5), (1e-9, 0.001)):
        with torch.no_grad():
            model.space.temperature.fill_(outside)
        task(image_batch(3), torch.Generator())
        assert model.space.temperature.item() == pytest.approx(bound)
    with torch.no_grad():
        model.space.temperature.fill_(0.07)


def test_whole_image_texts_count_for_the_box_only_on_request(model: CCLM) -> None:
    base = image_batch(3)
    batch = RegionTextBatch(
        images=base.images[:1],
        text=base.text,
        masked=base.masked,
        image_of_text=torch.zeros(3, dtype=torch.int64),
        patches=torch.ones(3, 65, dtype=torch.bool),
        boxes=torch.tensor([[0.5, 0.5, 1.0, 1.0]] * 3),
        is_whole_image=torch.ones(3, dtype=torch.bool),
    )
    without = PretrainTask(model, ObjectiveConfig()).eval()(batch, torch.Generator())
    included = PretrainTask(model, ObjectiveConfig(box_loss_on_whole_images=True)).eval()(batch, torch.Generator())
    assert without["loss_bbox"].item() == 0 and included["loss_bbox"].item() > 0


def region_batch(rows: list[int]) -> RegionTextBatch:
    """Texts about one region each; equal numbers in `rows` are repeats of one text and region."""
    base, chosen = image_batch(3), torch.tensor(rows)
    patches = torch.ones(3, 65, dtype=torch.bool)
    patches[1, 2:30] = patches[2, 40:] = False
    return RegionTextBatch(
        images=base.images,
        text=base.text.select(chosen),
        masked=MaskedText(base.text.select(chosen), *(torch.full((len(rows),), n) for n in (0, 1, 9))),
        image_of_text=chosen,
        patches=patches[chosen],
        boxes=torch.tensor([[0.5, 0.5, 0.5, 0.5]] * len(rows)),
        is_whole_image=torch.zeros(len(rows), dtype=torch.bool),
    )


def test_repeated_region_texts_are_negatives_of_themselves_only_as_published(model: CCLM) -> None:
    repeated, once = region_batch([0, 0, 1, 1, 2, 2]), region_batch([0, 1, 2])
    shared = PretrainTask(model, ObjectiveConfig(equal_texts_are_positives=True)).eval()
    published = PretrainTask(model, ObjectiveConfig()).eval()
    generator = torch.Generator()
    expected = published(once, generator)["loss_itc"]
    # Each positive is there twice, and so is each negative: the loss is larger by ln 2, the entropy of the targets.
    torch.testing.assert_close(shared(repeated, generator)["loss_itc"], expected + torch.tensor(2.0).log())
    alone = region_batch([1, 1, 1])  # nothing but repeats: there is no negative to draw
    wrong, right = (task.region_text(alone, torch.Generator())["loss_itm"] for task in (published, shared))
    text = shared.model.encoders.encode_text(alone.text)
    region = region_states(shared.model.encoders.encode_images(alone.images), alone.image_of_text, alone.patches)
    logits = model.match_head(model.encoders.fuse_first(text, Context(region)))
    torch.testing.assert_close(right, F.cross_entropy(logits, torch.ones(3, dtype=torch.int64)))
    torch.testing.assert_close(wrong, right / 3 + F.cross_entropy(logits, torch.zeros(3, dtype=torch.int64)) * 2 / 3)


def test_rows_that_share_a_text_belong_together_in_every_objective(model: CCLM) -> None:
    """Here all rows share one text, so the targets of contrast are spread evenly over all of them."""
    same, other = texts(4).select(torch.zeros(4, dtype=torch.int64)), texts(4, seed=1)
    masked = MaskedText(same, *(torch.full((4,), n) for n in (0, 1, 9)))
    pixels, space = image_batch(4).images, model.space
    image = space.image_features(model.encoders.encode_images(pixels).first())
    one, two = (space.text_features(model.encoders.encode_text(text).first()) for text in (same, other))

    def even(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        logits = left @ right.T / space.temperature
        return -(logits.log_softmax(dim=1) + logits.log_softmax(dim=0)).mean() / 2

    task = PretrainTask(model, ObjectiveConfig(equal_texts_are_positives=True)).eval()
    single = task(ImageTextBatch(pixels, same, masked), torch.Generator())
    double = task(ImageTextBatch(pixels, other, masked, second_text=same), torch.Generator())
    parallel = task(ParallelTextBatch(other, masked, same), torch.Generator())
    joined = task(JoinedTextBatch(same, other, masked), torch.Generator())
    torch.testing.assert_close(single["loss_itc"], even(image, one))
    torch.testing.assert_close(double["loss_itc"], (even(image, two) + even(image, one)) / 2)
    for found in (double["loss_ttc"], parallel["loss_ttc"], joined["loss_ttc"]):
        torch.testing.assert_close(found, even(one, two))


@torch.no_grad()
def test_rescoring_equals_the_plain_definition(model: CCLM) -> None:
    images = model.encoders.encode_images(torch.randn(5, 3, 64, 64))
    text = model.encoders.encode_text(texts(9))
    views = EncodedViews(
        images, text, model.space.image_features(images.first()), model.space.text_features(text.first())
    )
    scores = two_stage_scores(model, views, 3)
    similarity = views.image_features @ views.text_features.T
    for image in range(5):
        best = set(similarity[image].topk(3).indices.tolist())
        for number in range(9):
            one = torch.tensor([number])
            fused = model.encoders.fuse(text.select(one), Context(images.select(torch.tensor([image]))))
            wanted = model.match_head(fused.first())[0, 1].item() if number in best else -100.0
            assert scores.image_to_text[image, number].item() == pytest.approx(wanted, abs=1e-5)
    for number in range(9):
        kept = (scores.text_to_image[number] != -100).nonzero().flatten().tolist()
        assert set(kept) == set(similarity[:, number].topk(3).indices.tolist())


@torch.no_grad()
def test_ranking_answers_equals_the_plain_definition(model: CCLM) -> None:
    task = AnsweringTask(model, 2).eval()
    images, questions, answers = torch.randn(2, 3, 64, 64), texts(2), texts(7, seed=4)
    ranked = task.rank(images, questions, answers, candidates=3)
    states = task.encode_questions(images, questions)
    for row in range(2):
        context = Context(states.select(torch.tensor([row])), torch.zeros(1, dtype=torch.int64))
        start = task.decoder(Sequences.full(torch.zeros(1, 1, dtype=torch.int64)), context)[0, 0].log_softmax(dim=0)
        first = start[answers.data[:, 1]]
        scores = {}
        for number in first.topk(3).indices.tolist():
            ids = answers.data[number, : answers.lengths[number]]
            logits = task.decoder(Sequences.full(ids[None]), context)[0].log_softmax(dim=1)
            scores[number] = first[number] + sum(logits[i, ids[i + 1]] for i in range(len(ids) - 1))
        assert ranked.answers[row].tolist() == sorted(scores, key=lambda number: -scores[number])


def test_text_assignment_trains_all_three_labels(model: CCLM) -> None:
    task = TextAssignmentTask(model).train()
    losses = [task(image_batch(8), torch.Generator().manual_seed(seed))["loss_ta"] for seed in range(3)]
    assert all(loss.isfinite() for loss in losses) and len({loss.item() for loss in losses}) == 3


def test_a_diverged_model_gives_text_assignment_a_loss_that_is_not_finite(model: CCLM) -> None:
    """The training loop refuses such a loss with a sentence; an error in the draw would be a traceback."""
    pairs = draw_pairs(torch.full((6, 6), torch.nan), torch.Generator().manual_seed(0))
    own = torch.arange(6)
    assert ((pairs.left == own) == (pairs.labels == LEFT)).all()
    assert ((pairs.right == own) == (pairs.labels == RIGHT)).all()
    task = TextAssignmentTask(copy.deepcopy(model)).train()
    with torch.no_grad():
        task.space.image_projection.weight.fill_(torch.nan)
        task.encoders.text_encoder.embeddings.word.weight.fill_(torch.nan)
    assert task(image_batch(8), torch.Generator().manual_seed(0))["loss_ta"].isnan()


def test_text_assignment_draws_each_label_alike_and_no_image_for_its_own_negative() -> None:
    own, generator = torch.arange(6), torch.Generator().manual_seed(0)
    similarity = torch.eye(6)
    similarity[0, 3] = 0.3  # image 3 looks like image 0
    draws = [draw_pairs(similarity, generator) for _ in range(2000)]
    labels, left, right = (torch.stack(parts) for parts in zip(*draws, strict=True))  # (2000, 6) each
    assert all(abs((labels == label).float().mean() - 1 / 3) < 0.02 for label in (LEFT, RIGHT, NEITHER))
    assert ((left == own) == (labels == LEFT)).all() and ((right == own) == (labels == RIGHT)).all()
    negatives = left[:, 0][labels[:, 0] != LEFT]
    assert (negatives == 3).float().mean() > 0.9 and len(negatives.unique()) == 5


def test_retrieval_metrics_by_hand() -> None:
    """Two images, three texts: texts 0 and 1 belong to image 0."""
    i2t = np.array([[0.1, 0.9, 0.5], [0.8, 0.2, 0.3]])
    t2i = np.array([[0.6, 0.5], [0.1, 0.9], [0.2, 0.7]])
    metrics = retrieval_metrics(i2t, t2i, np.array([0, 0, 1]))
    assert metrics["txt_r1"] == 50.0  # image 0 finds text 1 first; image 1 finds text 0
    assert metrics["img_r1"] == pytest.approx(200 / 3)
    assert metrics["r_mean"] == pytest.approx((50 + 100 + 100) / 6 + (200 / 3 + 100 + 100) / 6)


def test_a_constant_score_retrieves_nothing() -> None:
    metrics = retrieval_metrics(np.zeros((20, 20)), np.zeros((20, 20)), np.arange(20))
    assert metrics["r_mean"] == 0.0


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_scores_that_are_not_finite_rank_nothing(wrong: float, side: int) -> None:
    """Compared as numbers, a NaN at each right place would be 100 % recall."""
    scores = [np.eye(4), np.eye(4)]
    scores[side][2, 2] = wrong
    with pytest.raises(UserError, match=r"^1 of 16 scores of the model are not finite, .* earlier checkpoint$"):
        retrieval_metrics(*scores, np.arange(4))


@torch.no_grad()
@pytest.mark.parametrize("part", ["image_projection", "match_head"])
@pytest.mark.parametrize("candidates", [0, 2])
def test_a_diverged_model_is_not_ranked(model: CCLM, tmp_path: Path, part: str, candidates: int) -> None:
    """NaN in the projections reaches the scores only through similarities, which re-scoring would hide."""
    if part == "match_head" and candidates == 0:
        pytest.skip("similarity alone ranks")
    broken = copy.deepcopy(model)
    for parameter in (broken.match_head if part == "match_head" else broken.space.image_projection).parameters():
        parameter.fill_(torch.nan)
    images = []
    for number in range(3):
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
        images.append(ImageRef(str(tmp_path / f"{number}.png")))
    dataset = RetrievalSet(
        files=("list.json",),
        images=images,
        image_ids=[0, 1, 2],
        image_places=["list.json"] * 3,
        texts=["red", "blue", "dark"],
        image_of_text=[0, 1, 2],
    )
    settings = RetrievalTest(64, 2, 2, candidates, max_words=5, max_tokens=8)
    tokenizer = SimpleNamespace(ids=lambda text, longest: [0, 4 + len(text), 2])
    with pytest.raises(UserError, match="scores of the model are not finite"):
        evaluate_retrieval(broken, {"en": dataset}, tokenizer, settings, torch.device("cpu"))  # type: ignore[arg-type]
    measured = evaluate_retrieval(model, {"en": dataset}, tokenizer, settings, torch.device("cpu"))  # type: ignore[arg-type]
    assert measured["en"].examples == 6


@torch.no_grad()
def test_a_diverged_classifier_has_no_accuracy(model: CCLM, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "i.png")
    entry = ClassificationEntry(ImageRef(str(tmp_path / "i.png")), "a text", 0, "list:1")
    dataset = ClassificationSet(files=("list",), entries=[entry])
    settings = EntryTest(64, 2, TextRules(5, 8, questions=False))
    tokenizer = SimpleNamespace(ids=lambda text, longest: [0, 4 + len(text), 2])
    task = ClassificationTask(model, 3).eval()
    measured = evaluate_entries(task, {"en": dataset}, tokenizer, settings, torch.device("cpu"))  # type: ignore[arg-type]
    assert measured["en"].examples == 1
    for parameter in task.class_head.parameters():
        parameter.fill_(torch.nan)
    with pytest.raises(UserError, match="^1 of 1 scores of the model are not finite"):
        evaluate_entries(task, {"en": dataset}, tokenizer, settings, torch.device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("candidates", [0, 3])
def test_bfloat16_evaluation_ranks_in_float32(model: CCLM, candidates: int) -> None:
    """Under autocast features come from bfloat16 layers, but ranking must not round similarities once more."""
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        images = model.encoders.encode_images(torch.randn(5, 3, 64, 64))
        text = model.encoders.encode_text(texts(9))
        features = model.space.image_features(images.first()), model.space.text_features(text.first())
        scores = two_stage_scores(model, EncodedViews(images, text, *features), candidates)
    assert scores.image_to_text.dtype == scores.text_to_image.dtype == torch.float32
    if candidates == 0:
        torch.testing.assert_close(scores.image_to_text, features[0] @ features[1].T)
