"""Ranking a fixed list of answers: every distinct beginning of an answer goes through the decoder once a question.

The published procedure (spec section 4) scores each of K candidates as a sequence of its own, with the question's
states repeated K times and scores over the vocabulary at every position. But answers are short and begin alike, and
only the scores after their beginnings count. So the beginnings of all candidates of a question form a tree, which the
decoder reads as one sequence: a beginning sees its own shorter beginnings, and its depth is its position. Candidates
that cannot come near the best one any more are not scored in full.

Dimension letters: B questions, A answers of the list, P distinct beginnings of the list, D longest beginning, K
candidates of a question, T beginnings in a question's tree, H width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cclm.model.attention import Context
from cclm.model.decoder import AnswerDecoder
from cclm.sequences import Sequences

_SCORED_FIRST = 8
_NEGLIGIBLE = 20.0
"""A candidate whose score is lower than the best one by this has a probability below 2e-9 beside it."""


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
        )

    def to(self, device: torch.device) -> AnswerTree:
        return AnswerTree(*(tensor.to(device) for tensor in vars(self).values()))

    def of_candidates(self, best: Tensor, wanted: Tensor) -> _QuestionTrees:
        """The part of the tree that each question's candidates (B, K) need, as far as they are `wanted` (B, K) bool."""
        # Ascending, so shorter beginnings come first; `<s>` is there in any case.
        trees = [self.beginnings[rows[mask]].unique() for rows, mask in zip(best, wanted, strict=True)]
        trees = [torch.cat([tree.new_zeros(1), tree[tree > 0]]) for tree in trees]
        size = max(map(len, trees))
        nodes = torch.stack([torch.cat([tree, tree.new_zeros(size - len(tree))]) for tree in trees])  # (B, T)
        exists = torch.stack([torch.arange(size, device=best.device) < len(tree) for tree in trees])  # (B, T)
        place = best.new_full((len(best), len(self.tokens) + 1), size)  # (B, P + 1): place in the question's tree
        rows = torch.arange(len(best), device=best.device)[:, None].expand_as(nodes)
        place[rows[exists], nodes[exists]] = torch.arange(size, device=best.device).expand_as(nodes)[exists]
        lineage = place[rows[..., None], self.lineage[nodes]]  # (B, T, D); -1 picks the spare last column: size
        sees = torch.zeros(*nodes.shape, size + 1, dtype=torch.bool, device=best.device)
        sees = sees.scatter_(2, lineage, True)[..., :size]  # (B, T, T)
        used = self.beginnings[best]  # (B, K, D)
        counts = (used > 0) & wanted[..., None]
        return _QuestionTrees(nodes, exists, sees, place[rows[:, :1, None], used], self.following[best], counts)


@dataclass(frozen=True)
class _QuestionTrees:
    nodes: Tensor
    """(B, T) int64, beginnings of the list."""
    exists: Tensor
    """(B, T) bool"""
    sees: Tensor
    """(B, T, T) bool: beginning t sees u, one of its own beginnings."""
    places: Tensor
    """(B, K, D) int64: where a candidate's beginnings stand in the tree."""
    following: Tensor
    """(B, K, D) int64: the tokens that follow them."""
    counts: Tensor
    """(B, K, D) bool: a beginning longer than `<s>`; what follows `<s>` is known already."""


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
    scores = 2 * best.values  # (B, K), descending
    wanted = torch.ones_like(scores, dtype=torch.bool)
    wanted[:, _SCORED_FIRST:] = False
    scores = scores + _continued(decoder, context, tree, best.indices, wanted)
    reached = torch.where(wanted, scores, -torch.inf).amax(dim=1, keepdim=True)  # (B, 1)
    wanted = ~wanted & (scores > reached - _NEGLIGIBLE)
    if wanted.any():
        scores = scores + _continued(decoder, context, tree, best.indices, wanted)
    order = scores.argsort(dim=1, descending=True)
    return RankedAnswers(best.indices.gather(1, order), scores.softmax(dim=1).gather(1, order))


def _continued(
    decoder: AnswerDecoder, context: Context, tree: AnswerTree, candidates: Tensor, wanted: Tensor
) -> Tensor:
    """Log probability of all that follows the first word, of the wanted candidates: (B, K) float32, 0 for others."""
    most = int(wanted.any(dim=0).nonzero().max()) + 1  # candidates stand in descending order
    trees = tree.of_candidates(candidates[:, :most], wanted[:, :most])
    states = decoder.states(
        Sequences.full(tree.tokens[trees.nodes]), context, positions=tree.depths[trees.nodes], mask=trees.sees
    )  # (B, T, H)
    found = _log_probabilities(decoder, states, trees).sum(dim=2)
    return torch.nn.functional.pad(found, (0, candidates.shape[1] - most))


def _log_probabilities(decoder: AnswerDecoder, states: Tensor, trees: _QuestionTrees) -> Tensor:
    """Of what follows each beginning longer than `<s>`: states (B, T, H) -> (B, K, D) float32, 0 elsewhere."""
    wanted = trees.exists & (trees.nodes > 0)  # (B, T)
    row_of = wanted.flatten().cumsum(0) - 1  # (B * T,)
    size = trees.nodes.shape[1]
    questions = torch.arange(len(states), device=states.device)[:, None, None]
    rows = row_of[(questions * size + trees.places.clamp(max=size - 1))[trees.counts]]  # one a counted beginning
    tokens = trees.following[trees.counts]
    values = decoder.log_probabilities(states[wanted], rows, tokens)
    result = torch.zeros(trees.counts.shape, dtype=torch.float32, device=rows.device)
    result[trees.counts] = values
    return result


def _rows(lists: Sequence[Sequence[int]], length: int) -> Tensor:
    """Lists as rows, filled up with -1."""
    return torch.tensor([[*numbers, *[-1] * (length - len(numbers))] for numbers in lists])
