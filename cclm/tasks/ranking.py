"""Ranking a fixed list of answers: every distinct beginning of an answer goes through the decoder once a question.

The published procedure (spec section 4) scores each of K candidates as a sequence of its own, with the question's
states repeated K times and scores over the vocabulary at every position. But answers are short and begin alike, and
only the scores after their beginnings count. So the beginnings of all candidates of a question form a tree, which the
decoder reads as one sequence: a beginning sees its own shorter beginnings, and its depth is its position. Candidates
that cannot come near the best one are not scored in full: by the probability of their first word, or by what follows it
if only the words of the list existed, which is little to compute and never less than the truth.

Dimension letters: B questions, A answers of the list, P distinct beginnings of the list, D longest beginning, K
candidates of a question, T beginnings in a question's tree (M of all questions), E scores, H width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cclm.model.attention import Context
from cclm.model.decoder import AnswerDecoder
from cclm.sequences import PackedSequences, Sequences

_SCORED_FIRST = 4
_NEGLIGIBLE = 16.0
"""A candidate whose score is lower than the best one by this has a probability below 1.2e-7 beside it: what float32
cannot tell from 0 beside 1."""


@dataclass(frozen=True)
class RankedAnswers:
    """The best answers of each question, best first."""

    answers: Tensor
    """(B, K) int64, rows of the answer list."""
    probabilities: Tensor
    """(B, K) float32, over the K candidates."""


@dataclass(frozen=True)
class AnswerTree:
    """All beginnings of a list of answers `<s> w1 .. wn </s>`; beginning 0 is `<s>` alone."""

    tokens: Tensor
    """(P,) int64: last token of each beginning."""
    depths: Tensor
    """(P,) int64: tokens before the last one."""
    lineage: Tensor
    """(P, D) int64: a beginning's own beginnings by depth, itself the last; -1 behind."""
    beginnings: Tensor
    """(A, D) int64: an answer's beginnings by depth; -1 behind."""
    following: Tensor
    """(A, D) int64: the token of the answer that follows each of them."""
    words: Tensor
    """(W,) int64, ascending: all tokens of the answers."""

    @staticmethod
    def build(answers: Sequence[Sequence[int]]) -> AnswerTree:
        """Token ids of each answer, all starting with the same `<s>`."""
        known: dict[tuple[int, int], int] = {(-1, answers[0][0]): 0}
        tokens, lineages = [answers[0][0]], [[0]]
        paths = []
        for answer in answers:
            path = [0]
            for token in answer[1:-1]:
                number = known.setdefault((path[-1], token), len(tokens))
                path.append(number)
                if number == len(tokens):
                    tokens.append(token)
                    lineages.append(list(path))
            paths.append(path)
        longest = max(map(len, paths))
        return AnswerTree(
            torch.tensor(tokens),
            torch.tensor([len(lineage) - 1 for lineage in lineages]),
            _rows(lineages, longest),
            _rows(paths, longest),
            _rows([answer[1:] for answer in answers], longest),
            torch.tensor(sorted({token for answer in answers for token in answer})),
        )

    def to(self, device: torch.device) -> AnswerTree:
        return AnswerTree(*(tensor.to(device) for tensor in vars(self).values()))

    def of_candidates(self, best: Tensor, wanted: Tensor) -> _QuestionTrees:
        """The part of the tree that each question's candidates (B, K) need, as far as they are `wanted` (B, K) bool."""
        # Ascending, so shorter beginnings come first; `<s>` is there in any case.
        trees = [self.beginnings[rows[mask]].unique() for rows, mask in zip(best, wanted, strict=True)]
        trees = [torch.cat([tree.new_zeros(1), tree[tree > 0]]) for tree in trees]
        lengths = torch.tensor([len(tree) for tree in trees], device=best.device)  # (B,)
        nodes = PackedSequences.of(torch.cat(trees), lengths)  # (M,)
        size = nodes.longest
        rows, columns = nodes.places // size, nodes.positions()  # (M,) each
        place = best.new_full((len(best), len(self.tokens) + 1), size)  # (B, P + 1): place in the question's tree
        place[rows, nodes.data] = columns
        lineage = place[rows[:, None], self.lineage[nodes.data]]  # (M, D); -1 picks the spare last column: size
        sees = torch.zeros(len(best), size, size + 1, dtype=torch.bool, device=best.device)
        sees[rows[:, None], columns[:, None], lineage] = True
        sees[:, :, 0] = True  # all see `<s>`, and so does padding, which has to see something
        used = self.beginnings[best]  # (B, K, D)
        questions = torch.arange(len(best), device=best.device)[:, None, None]
        places = nodes.starts[:, None, None] + place[questions, used]  # (B, K, D)
        return _QuestionTrees(nodes, sees[..., :size], places, self.following[best], (used > 0) & wanted[..., None])


@dataclass(frozen=True)
class _QuestionTrees:
    nodes: PackedSequences
    """(M,) int64, beginnings of the list: T or fewer a question, M in all."""
    sees: Tensor
    """(B, T, T) bool: beginning t sees u, one of its own beginnings."""
    places: Tensor
    """(B, K, D) int64: where a candidate's beginnings stand among the M."""
    following: Tensor
    """(B, K, D) int64: the tokens that follow them."""
    counts: Tensor
    """(B, K, D) bool: a wanted candidate's beginning longer than `<s>`; what follows `<s>` is known already."""


@torch.no_grad()
def rank_answers(decoder: AnswerDecoder, questions: Sequences, tree: AnswerTree, candidates: int) -> RankedAnswers:
    """Rank the list's answers for each question, given its states (B, L, H).

    `<s>` alone gives each answer the probability of its first word; the best `candidates` are then scored in full:
    log probability of the first word (a second time) minus the answer's summed next-token cross-entropy.
    """
    context = Context(questions)
    start = Sequences.full(tree.tokens[:1].expand(len(questions), 1))  # (B, 1): <s>
    first_logits = decoder(start, context)[:, 0].float()  # (B, V)
    log_first = first_logits.log_softmax(dim=1)[:, tree.following[:, 0]]  # (B, A)
    best = log_first.topk(min(candidates, len(tree.following)), dim=1)  # (B, K)
    # An answer's score is at most twice the log probability of its first word. So the likeliest are scored first, and
    # then those that may still matter beside the best of them; the others keep their bound, which decides nothing.
    bounds = 2 * best.values  # (B, K), descending
    wanted = torch.ones_like(bounds, dtype=torch.bool)
    wanted[:, _SCORED_FIRST:] = False
    scores = bounds + _continued(decoder, context, tree, best.indices, wanted)
    reached = torch.where(wanted, scores, -torch.inf).amax(dim=1, keepdim=True)  # (B, 1)
    least = reached - _NEGLIGIBLE - bounds  # (B, K): what must follow the first word
    wanted = ~wanted & (least < 0)
    if wanted.any():
        scores = scores + _continued(decoder, context, tree, best.indices, wanted, least)
    order = scores.argsort(dim=1, descending=True)
    return RankedAnswers(best.indices.gather(1, order), scores.softmax(dim=1).gather(1, order))


def _continued(
    decoder: AnswerDecoder,
    context: Context,
    tree: AnswerTree,
    candidates: Tensor,
    wanted: Tensor,
    least: Tensor | None = None,
) -> Tensor:
    """Log probability of all that follows the first word, of the wanted candidates: (B, K) float32, 0 for others.

    What is certainly below `least` (B, K) comes out as something between the truth and `least`.
    """
    most = int(wanted.any(dim=0).nonzero().max()) + 1  # candidates stand in descending order
    trees = tree.of_candidates(candidates[:, :most], wanted[:, :most])
    tokens = trees.nodes.with_data(tree.tokens[trees.nodes.data])
    states = decoder.states(tokens, context, positions=tree.depths[trees.nodes.data], mask=trees.sees).data  # (M, H)
    found = torch.zeros(trees.counts.shape, dtype=torch.float32, device=states.device)  # (B, K, D)
    counts = trees.counts
    if least is not None:
        # Scores over the words of the list alone cost little and bound those over the vocabulary; a trained decoder
        # expects few other words.
        found[counts] = _log_probabilities(decoder, states, trees, counts, tree.words)
        counts = counts & (found.sum(dim=2, keepdim=True) > least[:, :most, None])
    found[counts] = _log_probabilities(decoder, states, trees, counts)
    return torch.nn.functional.pad(found.sum(dim=2), (0, candidates.shape[1] - most))


def _log_probabilities(
    decoder: AnswerDecoder, states: Tensor, trees: _QuestionTrees, counts: Tensor, among: Tensor | None = None
) -> Tensor:
    """Of what follows the beginnings where `counts` (B, K, D) is True, E of them: states (M, H) -> (E,) float32."""
    used, rows = trees.places[counts].unique(return_inverse=True)
    return decoder.log_probabilities(states[used], rows, trees.following[counts], among)


def _rows(lists: Sequence[Sequence[int]], length: int) -> Tensor:
    """Lists as rows, filled up with -1."""
    return torch.tensor([[*numbers, *[-1] * (length - len(numbers))] for numbers in lists])
