"""The fast ways of evaluation against the plain definitions, on random inputs: packing, re-scoring, answer ranking."""

import pytest
import torch
from torch import Tensor

from cclm.checkpoints.initial import build_model
from cclm.config.model import ModelConfig, TextConfig, VisionConfig
from cclm.metrics.measured import Measured, accuracy, mean_metric
from cclm.metrics.results import as_json, examples_of, scores_of
from cclm.metrics.tables import score_table
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.sequences import PackedSequences, Sequences
from cclm.tasks.answering import AnsweringTask
from cclm.tasks.ranking import AnswerTree, rank_answers
from cclm.tasks.rescoring import NOT_RESCORED, EncodedViews, two_stage_scores
from cclm.tasks.shares import Shares

VOCABULARY = 60


@pytest.fixture(scope="module", params=[1, 3], ids=["one fusion layer", "three"])
def model(request) -> CCLM:
    text = TextConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_heads=2, intermediate_size=64, num_layers=1 + request.param,
        num_text_layers=1, max_positions=32, initializer_range=0.3,
    )  # fmt: skip
    vision = VisionConfig(image_size=64, embed_dim=16, depths=(1, 1), num_heads=(1, 2), window_size=4)
    return build_model(ModelConfig(vision=vision, text=text, embed_dim=16), seed=3).eval()


def texts(rows: int, seed: int = 0) -> Sequences:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (rows,), generator=generator)
    ids = torch.randint(4, VOCABULARY, (rows, 8), generator=generator)
    ids[:, 0] = 0
    return Sequences(ids.masked_fill(torch.arange(8) >= lengths[:, None], 1), lengths)


@torch.no_grad()
def test_packed_texts_give_the_states_of_padded_ones(model: CCLM) -> None:
    ids = texts(7)
    packed = PackedSequences.pack(ids)
    assert len(packed) == 7 and len(packed.data) == int(ids.lengths.sum())
    assert packed.data.equal(
        PackedSequences.from_lists([row[:n] for row, n in zip(ids.data.tolist(), ids.lengths, strict=True)]).data
    )
    rows = torch.tensor([5, 2, 2, 0])
    images = Sequences.full(torch.randn(2, 5, 32))
    context = Context(images, torch.tensor([1, 0, 1, 1]))
    padded = model.encoders.fuse(model.encoders.encode_text(ids.select(rows)), context)
    found = model.encoders.fuse(model.encoders.encode_text(packed).select(rows), context)
    mask = torch.arange(8) < ids.lengths[rows][:, None]
    torch.testing.assert_close(found.data, padded.data[mask], atol=1e-5, rtol=1e-4)
    first = model.encoders.fuse_first(model.encoders.encode_text(packed).select(rows), context)
    torch.testing.assert_close(first, padded.first(), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("candidates", [1, 3, 50])
def test_rescoring_equals_the_plain_definition(model: CCLM, candidates: int) -> None:
    images = model.encoders.encode_images(torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    text = model.encoders.encode_text(texts(11))
    views = EncodedViews(
        images, text, model.space.image_features(images.first()), model.space.text_features(text.first())
    )
    scores = two_stage_scores(model, views, candidates)
    similarity = views.image_features @ views.text_features.T
    wanted = {name: torch.full((6, 11), NOT_RESCORED) for name in ("i2t", "t2i")}
    for image in range(6):
        for number in range(11):
            alone = text.select(torch.tensor([number]))
            alone = Sequences.full(alone.data[:, : int(alone.lengths[0])])
            fused = model.encoders.fuse(alone, Context(images.select(torch.tensor([image]))))
            score = model.match_head(fused.first())[0, 1]
            if number in similarity[image].topk(min(candidates, 11)).indices:
                wanted["i2t"][image, number] = score
            if image in similarity[:, number].topk(min(candidates, 6)).indices:
                wanted["t2i"][image, number] = score
    torch.testing.assert_close(scores.image_to_text, wanted["i2t"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores.text_to_image.T, wanted["t2i"], atol=1e-4, rtol=1e-4)


def plain_scores(task: AnsweringTask, question: Tensor, answers: list[list[int]], candidates: int) -> dict[int, float]:
    """docs/method.md, section Evaluation, one answer at a time: question states (1, L, H)."""
    context = Context(Sequences.full(question))
    first = task.decoder(Sequences.full(torch.tensor([[0]])), context)[0, 0].log_softmax(dim=0)
    log_first = first[torch.tensor([answer[1] for answer in answers])]
    scores = {}
    for number in log_first.topk(min(candidates, len(answers))).indices.tolist():
        ids = torch.tensor(answers[number])
        logits = task.decoder(Sequences.full(ids[None]), context)[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")
        scores[number] = (log_first[number] - loss).item()
    return scores


ANSWERS = [
    [0, 7, 2], [0, 7, 8, 2], [0, 7, 8, 9, 2], [0, 7, 9, 2], [0, 10, 2], [0, 11, 12, 13, 14, 2], [0, 11, 12, 2],
    [0, 15, 7, 2], [0, 16, 2], [0, 17, 17, 17, 2],
]  # fmt: skip
"""Answers that begin alike, and some that are the beginning of others."""


@torch.no_grad()
@pytest.mark.parametrize("candidates", [1, 4, 10, 128])
def test_ranking_equals_the_plain_definition(model: CCLM, candidates: int) -> None:
    task = AnsweringTask(model, len(model.encoders.fusion_encoder.layers)).eval()
    questions = task.encoders.encode_text(texts(4, seed=2))
    ranked = rank_answers(task.decoder, questions, AnswerTree.build(ANSWERS), candidates)
    for row in range(4):
        alone = questions.data[row : row + 1, : int(questions.lengths[row])]
        scores = plain_scores(task, alone, ANSWERS, candidates)
        order = sorted(scores, key=lambda number: -scores[number])
        assert ranked.answers[row].tolist() == order
        wanted = torch.tensor([scores[number] for number in order]).softmax(dim=0)
        torch.testing.assert_close(ranked.probabilities[row], wanted, atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_a_sure_decoder_scores_few_beginnings_in_full(model: CCLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot matter is left out by its first word, or by the words of the list; what is left equals the rest."""
    decoder = AnsweringTask(model, len(model.encoders.fusion_encoder.layers)).eval().decoder
    decoder.token_head.norm.weight *= 2.5  # sure of some words
    decoder.token_head.bias[40:] -= 20  # and of no answer having others
    generator = torch.Generator().manual_seed(5)
    answers = [[0, *row.tolist(), 2] for row in torch.randint(5, 40, (90, 3), generator=generator).unique(dim=0)]
    questions, tree = model.encoders.encode_text(texts(5, seed=4)), AnswerTree.build(answers)
    whole, among = [], []
    plain = decoder.log_probabilities

    def counted(states: Tensor, rows: Tensor, tokens: Tensor, words: Tensor | None = None) -> Tensor:
        (whole if words is None else among).append(len(states))
        return plain(states, rows, tokens, words)

    monkeypatch.setattr(decoder, "log_probabilities", counted)
    found = rank_answers(decoder, questions, tree, 64)
    pruned = sum(whole)
    assert 0 < pruned < sum(among)
    monkeypatch.setattr("cclm.tasks.ranking._NEGLIGIBLE", torch.inf)
    whole.clear()
    full = rank_answers(decoder, questions, tree, 64)
    assert pruned < sum(whole) / 2
    matter = full.probabilities > 1e-6
    assert matter.sum(dim=1).min() > 1  # otherwise the order would say nothing
    assert found.answers[matter].equal(full.answers[matter])
    torch.testing.assert_close(found.probabilities[matter], full.probabilities[matter], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(5))


@torch.no_grad()
def test_among_fewer_words_a_word_is_never_less_likely(model: CCLM) -> None:
    decoder = AnsweringTask(model, 1).eval().decoder
    states, rows, tokens = torch.randn(3, 32), torch.tensor([0, 2, 2, 1]), torch.tensor([7, 9, 30, 7])
    logits = decoder.logits(states)
    torch.testing.assert_close(decoder.log_probabilities(states, rows, tokens), logits.log_softmax(1)[rows, tokens])
    among = torch.tensor([2, 7, 9, 30])
    bound = decoder.log_probabilities(states, rows, tokens, among)
    wanted = logits[:, among].log_softmax(1)[rows, torch.tensor([1, 2, 3, 1])]
    torch.testing.assert_close(bound, wanted)
    assert (bound >= decoder.log_probabilities(states, rows, tokens)).all()


def test_each_beginning_is_there_once() -> None:
    tree = AnswerTree.build(ANSWERS)
    beginnings = {tuple(answer[:n]) for answer in ANSWERS for n in range(1, len(answer))}
    assert len(tree.tokens) == len(beginnings)
    assert tree.depths.max() == 4 and tree.tokens[0] == 0


def test_shares_leave_nothing_out_and_take_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    for world in (1, 2, 3):
        monkeypatch.setattr("cclm.distributed.world_size", lambda world=world: world)
        shares = Shares(11, 2)
        items = [shares.items(rank) for rank in range(world)]
        assert sorted(item for each in items for item in each) == list(range(11))
        joined = torch.tensor([item for each in items for item in each])
        assert joined[shares.order()].tolist() == list(range(11))


def test_results_by_hand() -> None:
    """Accuracies of three languages, one of them English: the mean, and the mean without it as IGLUE reports it."""
    counts = {"en": (3, 4), "de": (1, 2), "zh": (0, 5)}
    measured = {language: Measured(accuracy(*count), count[1]) for language, count in counts.items()}
    assert mean_metric(measured, "accuracy") == pytest.approx((75 + 50 + 0) / 3)
    values = as_json(measured)
    assert values["languages"]["de"] == {"accuracy": 50.0, "examples": 2}
    assert values["mean_without_en"]["accuracy"] == 25.0
    rows = [line.split() for line in score_table(scores_of(measured), examples_of(measured)).splitlines()]
    assert rows[1] == ["en", "75.00", "4"] and rows[-1] == ["mean", "without", "en", "25.00"]
    only = {"en": measured["en"]}
    assert "mean_without_en" not in as_json(only)
