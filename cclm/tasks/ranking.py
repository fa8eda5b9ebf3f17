"""Ranking a fixed list of answers for each question (docs/method.md, section Evaluation).

The published procedure scores each of K candidates as a sequence of its own. It repeats the question's states K times
and computes logits over the vocabulary at every position. This module gives the same ranking with less work, in two
ways.

Answers are short, and many have the same prefix. So the distinct prefixes of all candidates of a question form a tree
(a trie), which the decoder reads as one sequence. A prefix attends to its own shorter prefixes, and its depth is its
position. Each distinct prefix goes through the decoder once for each question.

Candidates that cannot come near the best one are not scored in full. An upper bound of their score is enough. The first
bound is the probability of their first word. The second is the score that they would have if the vocabulary held only
the words of the list, which costs little to compute.

Dimension letters: B questions, A answers of the list, P distinct prefixes of the list, D length of the longest prefix,
K candidates of a question, T prefixes in a question's tree (M of all questions), E scores, L tokens of the longest
question, H width, V vocabulary, W distinct tokens of the answers.
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
"""Candidates that are scored in full before the others are compared with the best of them."""
_NEGLIGIBLE = 16.0
"""A candidate whose score is lower than the best one by this much has a probability below 1.2e-7, which float32 cannot
tell from 0 beside 1."""


@dataclass(frozen=True)
class RankedAnswers:
    """The best answers of each question, best first."""

    answers: Tensor
    """(B, K) int64, rows of the answer list."""
    probabilities: Tensor
    """(B, K) float32, over the K candidates."""


@dataclass(frozen=True)
class AnswerTree:
    """All distinct prefixes of a list of answers `<s> w1 .. wn </s>`, without `</s>`. Prefix 0 is `<s>` alone."""

    tokens: Tensor
    """(P,) int64: last token of each prefix."""
    depths: Tensor
    """(P,) int64: number of tokens before the last one."""
    lineage: Tensor
    """(P, D) int64: the prefixes of a prefix by depth, the last of them itself; filled up with -1."""
    prefixes: Tensor
    """(A, D) int64: the prefixes of an answer by depth; filled up with -1."""
    following: Tensor
    """(A, D) int64: the token of the answer that follows each of its prefixes; filled up with -1."""
    words: Tensor
    """(W,) int64, ascending: the distinct tokens of the answers."""

    @staticmethod
    def build(answers: Sequence[Sequence[int]]) -> AnswerTree:
        """The tree of some answers, given as token ids, all of which start with the same `<s>`."""
        known: dict[tuple[int, int], int] = {(-1, answers[0][0]): 0}  # (shorter prefix, last token) -> prefix
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
        """The same tree on `device`."""
        return AnswerTree(*(tensor.to(device) for tensor in vars(self).values()))

    def of_candidates(self, best: Tensor, wanted: Tensor) -> _QuestionTrees:
        """The part of the tree that each question's candidates need.

        Args:
            best: (B, K) int64, candidates as rows of the answer list.
            wanted: (B, K) bool; the others are left out.
        """
        # In ascending order shorter prefixes come first. `<s>` is always there.
        trees = [torch.unique(self.prefixes[rows[mask]]) for rows, mask in zip(best, wanted, strict=True)]
        trees = [torch.cat([tree.new_zeros(1), tree[tree > 0]]) for tree in trees]
        lengths = torch.tensor([len(tree) for tree in trees], device=best.device)  # (B,)
        nodes = PackedSequences.of(torch.cat(trees), lengths)  # (M,)
        size = nodes.longest
        rows, columns = nodes.places // size, nodes.positions()  # (M,) each
        place = best.new_full((len(best), len(self.tokens) + 1), size)  # (B, P + 1): place in the question's tree
        place[rows, nodes.data] = columns
        lineage = place[rows[:, None], self.lineage[nodes.data]]  # (M, D); -1 picks the spare last column, `size`
        sees = torch.zeros(len(best), size, size + 1, dtype=torch.bool, device=best.device)
        sees[rows[:, None], columns[:, None], lineage] = True
        sees[:, :, 0] = True  # every prefix sees `<s>`, and padding must see something
        used = self.prefixes[best]  # (B, K, D)
        questions = torch.arange(len(best), device=best.device)[:, None, None]
        places = nodes.starts[:, None, None] + place[questions, used]  # (B, K, D)
        return _QuestionTrees(nodes, sees[..., :size], places, self.following[best], (used > 0) & wanted[..., None])


@dataclass(frozen=True)
class _QuestionTrees:
    """For each question, the prefixes of its candidates."""

    nodes: PackedSequences
    """(M,) int64, prefixes as rows of the AnswerTree: at most T for each question, M in all."""
    sees: Tensor
    """(B, T, T) bool: prefix t attends to u, one of its own prefixes."""
    places: Tensor
    """(B, K, D) int64: places of a candidate's prefixes among the M."""
    following: Tensor
    """(B, K, D) int64: the tokens that follow these prefixes."""
    counts: Tensor
    """(B, K, D) bool: it is the prefix of a wanted candidate and longer than `<s>`. The score of the token after `<s>`
    is known before the tree is built."""


@torch.no_grad()
def rank_answers(decoder: AnswerDecoder, questions: Sequences, tree: AnswerTree, candidates: int) -> RankedAnswers:
    """Rank the answers of the list for each question.

    First, the decoder reads `<s>` alone, which gives each answer the probability of its first word. Then the likeliest
    answers, `candidates` of them, are scored: the log probability of the first word, plus that of all tokens after
    `<s>`. So the first word counts twice, as published.

    Args:
        questions: states (B, L, H).
        candidates: K, or the length of the list if that is less.
    """
    context = Context(questions)
    start = Sequences.full(tree.tokens[:1].expand(len(questions), 1))  # (B, 1): <s>
    first_logits = decoder(start, context)[:, 0].float()  # (B, V)
    log_first = first_logits.log_softmax(dim=1)[:, tree.following[:, 0]]  # (B, A)
    best = log_first.topk(min(candidates, len(tree.following)), dim=1)  # (B, K)
    # An answer's score is at most twice the log probability of its first word. So the likeliest candidates are scored
    # first, then those that may still matter beside the best of them. The others keep their bound; they come last.
    bounds = 2 * best.values  # (B, K), descending
    wanted = torch.ones_like(bounds, dtype=torch.bool)
    wanted[:, _SCORED_FIRST:] = False
    scores = bounds + _continued(decoder, context, tree, best.indices, wanted)
    best_score = torch.where(wanted, scores, -torch.inf).amax(dim=1, keepdim=True)  # (B, 1)
    least = best_score - _NEGLIGIBLE - bounds  # (B, K): below it, what follows the first word is negligible
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
    """Log probability of all tokens after the first word of the wanted candidates: (B, K) float32, 0 for others.

    Args:
        candidates: (B, K) int64, rows of the answer list.
        wanted: (B, K) bool.
        least: (B, K) float32. Where a bound shows that the result is below it, that bound is the result.
    """
    most = int(wanted.any(dim=0).nonzero().max()) + 1  # candidates are in descending order
    trees = tree.of_candidates(candidates[:, :most], wanted[:, :most])
    tokens = trees.nodes.with_data(tree.tokens[trees.nodes.data])
    states = decoder.states(tokens, context, positions=tree.depths[trees.nodes.data], mask=trees.sees).data  # (M, H)
    scores = torch.zeros(trees.counts.shape, dtype=torch.float32, device=states.device)  # (B, K, D)
    counts = trees.counts
    if least is not None:
        # Scores over the words of the list alone cost little and are upper bounds of those over the vocabulary. They
        # are close to them, since a trained decoder expects few other words.
        scores[counts] = _log_probabilities(decoder, states, trees, counts, tree.words)
        counts = counts & (scores.sum(dim=2, keepdim=True) > least[:, :most, None])
    scores[counts] = _log_probabilities(decoder, states, trees, counts)
    return torch.nn.functional.pad(scores.sum(dim=2), (0, candidates.shape[1] - most))


def _log_probabilities(
    decoder: AnswerDecoder, states: Tensor, trees: _QuestionTrees, counts: Tensor, among: Tensor | None = None
) -> Tensor:
    """Log probabilities (E,) float32 of the tokens that follow E prefixes.

    Args:
        states: (M, H) of the trees' nodes.
        counts: (B, K, D) bool, True for E prefixes.
        among: as in `AnswerDecoder.log_probabilities`.
    """
    used, rows = torch.unique(trees.places[counts], return_inverse=True)
    return decoder.log_probabilities(states[used], rows, trees.following[counts], among)


def _rows(lists: Sequence[Sequence[int]], length: int) -> Tensor:
    """Lists as rows (n, length) int64, filled up with -1."""
    return torch.tensor([[*numbers, *[-1] * (length - len(numbers))] for numbers in lists])
