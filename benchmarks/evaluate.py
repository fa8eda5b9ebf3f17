"""Re-scoring and answer ranking against a straightforward implementation of the published procedure, in one run.

    python benchmarks/evaluate.py                       both, at a shape that two cores do in minutes
    python benchmarks/evaluate.py --only rescoring --max-tokens 80

Same weights, same inputs, results compared. The model's proportions are the published ones (fusion and decoder of six
layers, 144 patches, vocabulary 244 times the width), its width is smaller. Weights, states and texts are random.

Expected, in units of H^2 multiplications a layer, for texts of 18 tokens:
  re-scoring, straightforward: 40 padded tokens * 14 + 145 image positions * 2, and attention: about 900 a pair;
  here: 18 * 14 = 252, 9/14 of it in the first layer, little in the last: about 4 times less, 6 or more where texts are
  padded to 80. Pairs that are candidates both ways are scored once: 1.3 times less for as many images as texts.
  ranking, straightforward: 128 answers * 9 padded tokens * (84 for six layers + 244 for the vocabulary), and the
  question's keys and values 128 times; here about 210 beginnings of answers: 5 to 6 times less. Candidates that
  cannot come near the best one are left out, too, but random weights, for which all words are alike, show little of it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cclm.config import ModelConfig, TextConfig, VisionConfig
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.model.decoder import AnswerDecoder
from cclm.sequences import Sequences
from cclm.tasks.ranking import AnswerTree, rank_answers
from cclm.tasks.rescoring import Candidates, EncodedViews, similarities, two_stage_scores

CANDIDATES = 128
MEAN_TOKENS = 18
"""Of real captions, XLM-R's tokens."""
ANSWERS = 1842
ANSWER_TOKENS = ((1, 0.50), (2, 0.27), (3, 0.14), (4, 0.06), (5, 0.02), (6, 0.007), (7, 0.003))
"""How many answers of GQA's list have how many tokens, about."""
FIRST_TOKENS = 1300
"""Distinct first tokens of that list, about."""


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


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The result, and CPU seconds: both ways keep all threads busy, and other work on the machine does not count."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


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
    plain, plain_seconds = timed(lambda: plain_rescoring(model, views, longest, queries))
    scores, seconds = timed(lambda: two_stage_scores(model, views, CANDIDATES))
    similarity = similarities(features, others)
    found = torch.stack(
        [
            torch.stack([scores.image_to_text[q, similarity[q].topk(CANDIDATES).indices] for q in queries]),
            torch.stack([scores.text_to_image[q, similarity[:, q].topk(CANDIDATES).indices] for q in queries]),
        ]
    )
    chosen = Candidates.best(similarity, CANDIDATES)
    pairs = int((chosen.of_images | chosen.of_texts).sum())
    plain_pairs = 2 * size * CANDIDATES
    plain_seconds *= size / len(queries)
    error = (found - plain).abs().max().item()
    print(
        f"re-scoring, {size} images and texts of {ids.lengths.float().mean():.1f} tokens, padded to {longest}, k = "
        f"{CANDIDATES}, width {width}\n"
        f"  straightforward {plain_seconds:8.1f} CPU s for {plain_pairs:,} pairs (timed on 1/{share})\n"
        f"  here            {seconds:8.1f} CPU s for {pairs:,} pairs\n"
        f"  ratio           {plain_seconds / seconds:8.1f} x, a pair "
        f"{plain_seconds / plain_pairs * pairs / seconds:.1f} x; largest difference of a score {error:.1e}"
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


def ranking(model: CCLM, number: int, generator: torch.Generator) -> bool:
    """`number` questions over a list like GQA's."""
    vocabulary = model.token_head.bias.shape[0]
    decoder = AnswerDecoder(model, len(model.encoders.fusion_encoder.layers)).eval()
    answers = random_answers(vocabulary, generator)
    padded = Sequences.from_lists(answers)
    questions = model.encoders.encode_text(random_texts(number, vocabulary, 40, generator))
    tree = AnswerTree.build(answers)

    def here() -> Tensor:
        ranked = rank_answers(decoder, questions, tree, CANDIDATES)
        return torch.zeros(number, len(answers)).scatter_(1, ranked.answers, ranked.probabilities)

    plain, plain_seconds = timed(lambda: plain_ranking(decoder, questions, padded))
    found, seconds = timed(here)
    error = (found - plain).abs().max().item()
    same = torch.equal(found.argmax(dim=1), plain.argmax(dim=1))
    print(
        f"answer ranking, {number} questions, {len(answers)} answers of at most {padded.data.shape[1]} tokens with "
        f"<s> and </s>, k = {CANDIDATES}, vocabulary {vocabulary}\n"
        f"  straightforward {plain_seconds:8.1f} CPU s\n"
        f"  here            {seconds:8.1f} CPU s\n"
        f"  ratio           {plain_seconds / seconds:8.1f} x; largest difference of a probability {error:.1e}, "
        f"{'same' if same else 'OTHER'} best answers"
    )
    return error < 1e-4 and same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("rescoring", "ranking"))
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6, help="fusion layers, and layers of the decoder")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--size", type=int, default=256, help="images, and texts, of the retrieval set")
    parser.add_argument("--share", type=int, default=16, help="the straightforward way re-scores 1/SHARE of the queries")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=40, help="published padding: 40 for lists, 80 for IGLUE")
    args = parser.parse_args()
    model = model_of(args.width, args.layers, args.heads)
    generator = torch.Generator().manual_seed(1)
    equal = True
    with torch.no_grad():
        if args.only != "ranking":
            equal &= rescoring(model, args.size, args.max_tokens, args.share, generator)
        if args.only != "rescoring":
            equal &= ranking(model, args.questions, generator)
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
