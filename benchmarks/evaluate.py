"""Re-scoring and answer ranking against a straightforward implementation of the published procedure, in one run.

    python -m benchmarks.evaluate                       both, at a shape that two cores do in minutes
    python -m benchmarks.evaluate --only rescoring --max-tokens 80

Both ways get the same weights and inputs, and their results are compared. The model has the published proportions
(fusion and decoder of six layers, 144 patches, vocabulary 244 times the width) at a smaller width. Weights, states and
texts are random.

Expected, in units of H^2 multiplications a layer, for texts of 18 tokens:
  re-scoring, straightforward: 40 padded tokens * 14 + 145 image positions * 2, and attention: about 900 a pair;
  here: 18 * 14 = 252, 9/14 of it in the first layer, little in the last: about 4 times less, 6 or more where texts are
  padded to 80. Pairs that are candidates both ways are scored once: 1.3 times less for as many images as texts.
  ranking, straightforward: 128 answers * 9 padded tokens * (84 for six layers + 244 for the vocabulary), and the
  question's keys and values 128 times: 410,000 a question. Here, for random weights, about 210 beginnings of answers:
  5 to 6 times less. It is not more because random weights find all words equally likely, so every candidate matters.
  A trained decoder leaves most candidates out: some by their first word, most others by their scores over the words of
  the list (16 instead of 244). With 135 beginnings read and 50 compared with the whole vocabulary: 16 times less
  (attention and exponentials not counted).

Therefore ranking is measured twice. The trained decoder learns for a minute, by the task's own loss, from made-up
questions whose states show an answer. It is as unsure as a real model, which is right 60 % of the time: the right
answer is the one shown 6 times in 10, otherwise any of its kind, common ones more often (Zipf). A third of the
questions has two possible answers, the others about 60. It is measured on questions that it has not seen. How sure it
is of its answers is printed.

Ratios are of CPU time outside the kernel, which favours the straightforward way: its logits take 0.1 GB and more, and
the kernel's time for handing out such memory differs between machines. The second ratio includes it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.config.model import ModelConfig, TextConfig, VisionConfig
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.model.decoder import AnswerDecoder
from cclm.sequences import Sequences
from cclm.tasks.answering import AnsweringTask
from cclm.tasks.ranking import AnswerTree, rank_answers
from cclm.tasks.rescoring import Candidates, EncodedViews, TwoStageScores, similarities, two_stage_scores

CANDIDATES = 128
MEAN_TOKENS = 18
"""Length of a real caption, XLM-R's tokens."""
ANSWERS = 1842
"""Number of answers in GQA's list."""
ANSWER_TOKENS = ((1, 0.50), (2, 0.27), (3, 0.14), (4, 0.06), (5, 0.02), (6, 0.007), (7, 0.003))
"""(tokens, about which part of GQA's answers has so many)."""
FIRST_TOKENS = 1300
"""Distinct first tokens of that list, about."""
KINDS = 30
"""Kinds of answer with more than two to choose from."""
CLOSED = 0.35
"""Share of the questions with two possible answers; of GQA's, about a third asks for yes or no."""
RIGHT = 0.6
"""How often the answer that a question shows is the right one."""


def model_of(width: int, layers: int, heads: int) -> CCLM:
    """Published proportions at another width; the image encoder is not used and small."""
    text = TextConfig(
        vocab_size=244 * width,
        hidden_size=width,
        num_heads=heads,
        intermediate_size=4 * width,
        num_layers=2 * layers,
        num_text_layers=layers,
        max_positions=128,
        initializer_range=0.05,
    )
    vision = VisionConfig(image_size=32, embed_dim=width // 2, depths=(1, 1), num_heads=(2, 4), window_size=4)
    torch.manual_seed(0)
    return CCLM(ModelConfig(vision=vision, text=text)).eval()


def random_texts(number: int, vocabulary: int, longest: int, generator: torch.Generator) -> Sequences:
    """Token ids of texts that are MEAN_TOKENS long on average."""
    lengths = torch.poisson(torch.full((number,), MEAN_TOKENS - 2.0), generator=generator).long() + 2
    lengths = lengths.clamp(4, longest)
    ids = torch.randint(5, vocabulary, (number, int(lengths.max())), generator=generator)
    ids[:, 0] = 0
    return Sequences(ids, lengths)


@dataclass(frozen=True)
class Timed:
    """A result and its CPU seconds, which do not count other work on the machine. Both ways keep all threads busy."""

    result: Tensor
    user: float
    kernel: float

    def __str__(self) -> str:
        return f"{self.user:8.1f} CPU s, and {self.kernel:.1f} in the kernel"


def timed(work: Callable[[], Tensor]) -> Timed:
    began = os.times()
    result = work()
    ended = os.times()
    return Timed(result, ended.user - began.user, ended.system - began.system)


def ratio(plain: Timed, here: Timed, times: float = 1.0) -> str:
    """How many times more CPU time the straightforward way needs, `times` what was measured."""
    whole = (plain.user + plain.kernel) / (here.user + here.kernel)
    return f"{plain.user / here.user * times:8.1f} x ({whole * times:.1f} x with the kernel)"


# ------------------------------------------------------------------------------------------------------- re-scoring


def pad_to(texts: Sequences, longest: int) -> Sequences:
    """(T, L, H) -> (T, longest, H), as published texts are."""
    missing = longest - texts.data.shape[1]
    return Sequences(F.pad(texts.data, (0, 0, 0, max(0, missing))), texts.lengths)


def plain_scores(model: CCLM, images: Sequences, texts: Sequences) -> Tensor:
    """One query: texts (K, L, H), each with its own copy of image states (K, 1+P, H)."""
    fused = model.encoders.fuse(texts, Context(images))
    return model.match_head(fused.first())[:, 1]


def plain_rescoring(model: CCLM, views: EncodedViews, longest: int, queries: list[int]) -> Tensor:
    """Scores (2, queries, K) of some images' best texts and of some texts' best images."""
    padded = pad_to(views.texts, longest)
    similarity = views.image_features @ views.text_features.T
    rows = []
    for query in queries:
        best = similarity[query].topk(CANDIDATES).indices
        image = views.images.select(torch.tensor([query])).data.repeat(CANDIDATES, 1, 1)
        rows.append(plain_scores(model, Sequences.full(image), padded.select(best)))
    for query in queries:
        best = similarity[:, query].topk(CANDIDATES).indices
        text = padded.select(torch.full((CANDIDATES,), query))
        rows.append(plain_scores(model, views.images.select(best), text))
    return torch.stack(rows).view(2, len(queries), CANDIDATES)


def _both(scores: TwoStageScores) -> Tensor:
    """(2, images, texts), (2, texts, images) being of the same size here."""
    return torch.stack([scores.image_to_text, scores.text_to_image])


def rescoring(model: CCLM, size: int, longest: int, share: int, generator: torch.Generator) -> bool:
    """`size` images and as many texts; the straightforward way on 1/`share` of the queries, which all cost the same."""
    width = model.space.text_projection.in_features
    ids = random_texts(size, model.token_head.bias.shape[0], longest, generator)
    texts = model.encoders.encode_text(ids)
    images = Sequences.full(torch.randn(size, 145, width, generator=generator))
    # A trained model's rankings agree: texts and images of a pair are made alike.
    features = F.normalize(torch.randn(size, 64, generator=generator), dim=1)
    others = F.normalize(features + 0.1 * torch.randn(size, 64, generator=generator), dim=1)
    views = EncodedViews(images, texts, features, others)
    queries = list(range(0, size, share))
    plain = timed(lambda: plain_rescoring(model, views, longest, queries))
    here = timed(lambda: _both(two_stage_scores(model, views, CANDIDATES)))
    image_to_text, text_to_image = here.result
    similarity = similarities(features, others)
    found = torch.stack(
        [
            torch.stack([image_to_text[q, similarity[q].topk(CANDIDATES).indices] for q in queries]),
            torch.stack([text_to_image[q, similarity[:, q].topk(CANDIDATES).indices] for q in queries]),
        ]
    )
    chosen = Candidates.best(similarity, CANDIDATES)
    pairs = int((chosen.of_images | chosen.of_texts).sum())
    plain_pairs = 2 * size * CANDIDATES
    error = (found - plain.result).abs().max().item()
    print(
        f"re-scoring, {size} images and texts of {ids.lengths.float().mean():.1f} tokens, padded to {longest}, k = "
        f"{CANDIDATES}, width {width}\n"
        f"  straightforward {plain}, for 1/{share} of {plain_pairs:,} pairs\n"
        f"  here            {here}, for {pairs:,} pairs\n"
        f"  ratio           {ratio(plain, here, size / len(queries))}, a pair "
        f"{plain.user * size / len(queries) / plain_pairs * pairs / here.user:.1f} x; "
        f"largest difference of a score {error:.1e}"
    )
    return error < 1e-3


# ---------------------------------------------------------------------------------------------------- answer ranking


def random_answers(vocabulary: int, generator: torch.Generator) -> list[list[int]]:
    """A list like GQA's: distinct answers of one to seven tokens between `<s>` and `</s>`."""
    lengths, weights = zip(*ANSWER_TOKENS, strict=True)
    firsts = torch.randint(5, vocabulary, (FIRST_TOKENS,), generator=generator)
    answers: dict[tuple[int, ...], None] = {}
    while len(answers) < ANSWERS:
        length = lengths[int(torch.multinomial(torch.tensor(weights), 1, generator=generator))]
        first = int(firsts[torch.randint(0, FIRST_TOKENS, (1,), generator=generator)])
        rest = torch.randint(5, vocabulary, (length - 1,), generator=generator).tolist()
        answers[(0, first, *rest, 2)] = None
    return [list(answer) for answer in answers]


def plain_ranking(decoder: AnswerDecoder, questions: Sequences, answers: Sequences) -> Tensor:
    """(B, A) probabilities, 0 for answers that are no candidates: one question after the other."""
    result = torch.zeros(len(questions), len(answers))
    for row in range(len(questions)):
        question = questions.select(torch.tensor([row]))
        start = decoder(Sequences.full(answers.data[:1, :1]), Context(question))[:, 0]  # (1, V)
        log_first = start.log_softmax(dim=1)[0, answers.data[:, 1]]  # (A,)
        best = log_first.topk(CANDIDATES)
        chosen = answers.select(best.indices)
        repeated = question.select(torch.zeros(CANDIDATES, dtype=torch.int64))
        logits = decoder(chosen, Context(repeated))[:, :-1]  # (K, L-1, V)
        targets = chosen.data[:, 1:]
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        exists = torch.arange(1, chosen.data.shape[1]) < chosen.lengths[:, None]
        scores = best.values - (losses * exists).sum(dim=1)
        result[row, best.indices] = scores.softmax(dim=0)
    return result


def compare_ranking(title: str, decoder: AnswerDecoder, questions: Sequences, answers: list[list[int]]) -> bool:
    padded = Sequences.from_lists(answers)
    tree = AnswerTree.build(answers)

    def ours() -> Tensor:
        ranked = rank_answers(decoder, questions, tree, CANDIDATES)
        return torch.zeros(len(questions), len(answers)).scatter_(1, ranked.answers, ranked.probabilities)

    plain = timed(lambda: plain_ranking(decoder, questions, padded))
    here = timed(ours)
    error = (here.result - plain.result).abs().max().item()
    same = torch.equal(here.result.argmax(dim=1), plain.result.argmax(dim=1))
    print(
        f"answer ranking, {title}: {len(questions)} questions, {len(answers)} answers of at most "
        f"{padded.data.shape[1]} tokens with <s> and </s>, k = {CANDIDATES}, vocabulary "
        f"{len(decoder.token_head.bias)}\n"
        f"  straightforward {plain}\n"
        f"  here            {here}\n"
        f"  ratio           {ratio(plain, here)}; largest difference of a probability {error:.1e}, "
        f"{'same' if same else 'OTHER'} best answers",
        flush=True,
    )
    return error < 1e-4 and same


def random_ranking(model: CCLM, number: int, generator: torch.Generator) -> bool:
    """`number` questions over a list like GQA's, by a decoder with random weights."""
    vocabulary = model.token_head.bias.shape[0]
    decoder = AnswerDecoder(model, len(model.encoders.fusion_encoder.layers)).eval()
    answers = random_answers(vocabulary, generator)
    questions = model.encoders.encode_text(random_texts(number, vocabulary, 40, generator))
    return compare_ranking("random weights", decoder, questions, answers)


# ----------------------------------------------------------------------------------- answer ranking, trained decoder


@dataclass(frozen=True)
class Questions:
    """Made-up questions and their answers."""

    states: Sequences
    """Of B questions, (B, L, H), as if they had seen the image."""
    right: list[int]
    """Rows of the answer list."""


class Quiz:
    """Makes questions. The states of one show, among noise, the words of an answer and the kind that is asked for."""

    def __init__(self, model: CCLM, generator: torch.Generator) -> None:
        self.embeddings = model.encoders.text_encoder.embeddings
        self.generator = generator
        words = F.normalize(self.embeddings.word.weight, dim=1) * self.embeddings.word.embedding_dim**0.5
        answers = random_answers(len(words), generator)
        answers.sort(key=lambda answer: len(answer) != 3)  # the first two, as yes and no, are one token long
        self.answers = answers
        self.kinds = [[0, 1]] + [list(range(2 + kind, len(answers), KINDS)) for kind in range(KINDS)]
        self.answer_states = torch.stack(
            [words[answer[1:-1]].sum(dim=0) / (len(answer) - 2) ** 0.5 for answer in answers]
        )
        self.kind_states = torch.randn(len(self.kinds), words.shape[1], generator=generator)

    def draw(self, number: int) -> Questions:
        """So many questions."""
        closed = torch.rand(number, generator=self.generator) < CLOSED
        kinds = torch.randint(1, len(self.kinds), (number,), generator=self.generator).masked_fill(closed, 0).tolist()
        shown = [self._answer(kind) for kind in kinds]
        kept = torch.rand(number, generator=self.generator) < RIGHT
        right = [answer if keep else self._answer(kind) for answer, keep, kind in zip(shown, kept, kinds, strict=True)]
        texts = self.embeddings(random_texts(number, self.embeddings.word.num_embeddings, 40, self.generator))
        seen = self.answer_states[shown] + self.kind_states[kinds]  # (B, H)
        return Questions(texts.with_data(texts.data / 4 + seen[:, None]), right)

    def _answer(self, kind: int) -> int:
        """Row of an answer of the kind. Its n-th answer is 1/n as likely as its first."""
        members = self.kinds[kind]
        return members[int(torch.multinomial(1 / torch.arange(1, len(members) + 1), 1, generator=self.generator))]


def trained_decoder(model: CCLM, quiz: Quiz, steps: int) -> AnswerDecoder:
    """A decoder after `steps` updates by the task's own loss, on 64 questions each.

    Words that no answer has are left out of training, which therefore takes no more than a minute. Their bias is then
    set so that together they have some 3 % of the probability, more than a decoder that saw all words would give them.
    """
    task = AnsweringTask(model, len(model.encoders.fusion_encoder.layers)).eval()  # no dropout: it learns faster
    embeddings, head = task.decoder.embeddings, task.decoder.token_head
    words = torch.tensor(sorted({token for answer in quiz.answers for token in answer}))
    everything = embeddings.word.weight.detach()
    embeddings.word = nn.Embedding.from_pretrained(everything[words], freeze=False)
    head.bias = nn.Parameter(torch.zeros(len(words)))
    numbers = {token: number for number, token in enumerate(words.tolist())}
    answers = [[numbers[token] for token in answer] for answer in quiz.answers]
    optimizer = torch.optim.AdamW(task.decoder.parameters(), lr=2e-3, fused=True)
    shape = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 50) * (1 - step / steps))
    for _ in range(steps):
        questions = quiz.draw(64)
        batch = Sequences.from_lists([answers[row] for row in questions.right])
        with torch.enable_grad():
            task.answer_losses(batch, Context(questions.states)).mean().backward()
        nn.utils.clip_grad_norm_(task.decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        shape.step()
    bias = torch.full((len(everything),), -5.0).index_copy_(0, words, head.bias.detach())
    embeddings.word = nn.Embedding.from_pretrained(everything.index_copy(0, words, embeddings.word.weight.detach()))
    head.bias = nn.Parameter(bias)
    return task.decoder


def trained_ranking(model: CCLM, number: int, steps: int, generator: torch.Generator) -> bool:
    """`number` questions that were not trained on, by a trained decoder. Prints how sure and how right it is on 256."""
    quiz = Quiz(model, generator)
    decoder = trained_decoder(model, quiz, steps)
    unseen = quiz.draw(256)
    tree = AnswerTree.build(quiz.answers)
    ranked = rank_answers(decoder, unseen.states, tree, CANDIDATES)
    accuracy = (ranked.answers[:, 0] == torch.tensor(unseen.right)).float().mean()
    first = decoder(Sequences.full(torch.zeros(256, 1, dtype=torch.int64)), Context(unseen.states))[:, 0].softmax(dim=1)
    entropy = -(first * first.clamp(min=1e-30).log()).sum(dim=1).mean()
    print(
        f"trained decoder, {steps} steps: {100 * accuracy:.0f} % right; best answer's probability "
        f"{ranked.probabilities[:, 0].mean():.2f} on average; first word: best one's "
        f"{first.amax(dim=1).mean():.2f}, entropy {entropy:.1f} nats, "
        f"{(first > 1e-4).sum(dim=1).float().mean():.0f} words above 1e-4, "
        f"words of no answer {1 - first[:, tree.words].sum(dim=1).mean():.1%}"
    )
    questions = unseen.states.select(torch.arange(number))
    return compare_ranking("trained", decoder, questions, quiz.answers)


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("rescoring", "ranking"))
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6, help="fusion layers, and layers of the decoder")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="images, and texts, of the retrieval set")
    parser.add_argument("--share", type=int, default=16, help="straightforwardly, 1/SHARE of the queries are re-scored")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--trained-width", type=int, default=128, help="of the decoder that is trained")
    parser.add_argument("--steps", type=int, default=400, help="of its training")
    parser.add_argument("--max-tokens", type=int, default=40, help="published padding: 40 for lists, 80 for IGLUE")
    args = parser.parse_args()
    model = model_of(args.width, args.layers, args.heads)
    generator = torch.Generator().manual_seed(1)
    equal = True
    with torch.no_grad():
        if args.only != "ranking":
            equal &= rescoring(model, args.size, args.max_tokens, args.share, generator)
        if args.only != "rescoring":
            equal &= random_ranking(model, args.questions, generator)
            small = model_of(args.trained_width, args.layers, args.heads)
            equal &= trained_ranking(small, 3 * args.questions, args.steps, generator)
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
