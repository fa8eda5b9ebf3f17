"""Floating-point operations that a training step of each task takes, from the shapes of its batch.

`cclm.model.flops` says which operations count. The backward pass of a matrix product takes two of the same size: one
for the gradient of each factor. Pixels get no gradient, and what is computed without gradient has no backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from cclm.config.model import ModelConfig
from cclm.data.batches.batch import ImageTextBatch, JoinedTextBatch, ParallelTextBatch, RegionTextBatch
from cclm.data.batches.finetuning_batch import AnswerBatch, ClassificationBatch, PairBatch, RetrievalBatch
from cclm.model.flops import Attended, ModelFlops
from cclm.model.heads import MlpHead
from cclm.sequences import Sequences
from cclm.tasks.answering import AnsweringTask
from cclm.tasks.classification import ClassificationTask
from cclm.tasks.reasoning import TextAssignmentTask


@dataclass(frozen=True)
class StepFlops:
    """Operations of one step of this process, forward and backward."""

    real: float
    """What the model asks for, with texts of their own lengths. What a step saves by its `compute` settings counts all
    the same: the model does not become smaller by it."""
    computed: float
    """The same with padding, as in a step without `packed_texts`, `read_positions` and `shared_self_attention`."""


@dataclass(frozen=True)
class _Pass:
    """Operations of a forward pass."""

    images: int
    """Images that are encoded."""
    rest: float
    """All else that has a backward pass."""
    without_gradient: int = 0


class FlopCounter:
    """Counts the steps of one task.

    Args:
        task: of `cclm.tasks`, not wrapped.
        config: of its model.
        processes: of the run; contrast compares the rows of all of them.
    """

    def __init__(self, task: nn.Module, config: ModelConfig, processes: int) -> None:
        self._model = ModelFlops(config)
        self._processes = processes
        self._is_text_assignment = isinstance(task, TextAssignmentTask)
        self._decoder_layers = len(task.decoder.layers) if isinstance(task, AnsweringTask) else 0
        self._classes = _outputs(task.class_head) if isinstance(task, ClassificationTask) else 2

    def count(self, batch: Any) -> StepFlops:
        """The operations of a step with `batch`, whose lengths are on the CPU.

        Which text is drawn as a hard negative is not known beforehand: in `real`, all are taken to be equally probable.
        """
        return StepFlops(self.count_real(batch), self._both_ways(self._forward(batch, is_padded=True)))

    def count_real(self, batch: Any) -> float:
        """`StepFlops.real` alone."""
        return self._both_ways(self._forward(batch, is_padded=False))

    def _both_ways(self, forward: _Pass) -> float:
        image = self._model.image
        images = forward.images * (3 * image.forward - image.patch_embedding)
        return images + 3 * forward.rest + forward.without_gradient

    def _forward(self, batch: Any, is_padded: bool) -> _Pass:
        match batch:
            case ImageTextBatch() if self._is_text_assignment:
                return self._text_assignment(batch, is_padded)
            case ImageTextBatch():
                return self._image_text(batch, is_padded)
            case RegionTextBatch():
                return self._region_text(batch, is_padded)
            case ParallelTextBatch():
                return self._parallel_text(batch, is_padded)
            case JoinedTextBatch():
                return self._joined_text(batch, is_padded)
            case RetrievalBatch():
                return self._retrieval(batch, is_padded)
            case ClassificationBatch():
                return self._classification(batch, is_padded)
            case PairBatch():
                return self._pair(batch, is_padded)
            case AnswerBatch():
                return self._answering(batch, is_padded)
        raise TypeError(f"the operations of a {type(batch).__name__} are not known")

    # ---------------------------------------------------------------------------------------------------- pre-training

    def _image_text(self, batch: ImageTextBatch, is_padded: bool) -> _Pass:
        groups = [batch.text, batch.masked.tokens, *([] if batch.second_text is None else [batch.second_text])]
        text, masked, *second = _lengths(groups, is_padded)
        count = len(text)
        rest: float = self._model.encode_text([*text, *masked, *(length for group in second for length in group)])
        rest += self._model.project((2 + len(second)) * count) + (3 if second else 1) * self._contrast(count)
        rest += self._model.fuse([*text, *text, *text, *masked], self._images(count, 4 * count))
        rest += self._match_and_tokens(count, len(batch.masked.labels))
        return _Pass(count, rest, self._model.compare(count, count))

    def _region_text(self, batch: RegionTextBatch, is_padded: bool) -> _Pass:
        text, masked = _lengths([batch.text, batch.masked.tokens], is_padded)
        images, count = len(batch.images), len(text)
        rest: float = self._model.encode_text([*text, *masked])
        rest += self._model.project(2 * count) + self._contrast(count)
        rest += self._model.fuse([*text, *text, *text, *masked], self._images(count, 4 * count))
        rest += self._model.fuse(text, self._images(images, count)) + self._model.mlp_head(count, 4)
        rest += self._match_and_tokens(count, len(batch.masked.labels))
        return _Pass(images, rest, self._model.compare(count, count))

    def _parallel_text(self, batch: ParallelTextBatch, is_padded: bool) -> _Pass:
        groups = [batch.source, batch.target, batch.source_masked.tokens]
        source, target, masked = _lengths(groups, is_padded)
        count = len(source)
        mean = sum(source) / count  # which source a target is compared with is drawn
        attended = Attended(sum(source) + sum(target), [*source, *[mean] * (2 * count), *target])
        rest: float = self._model.encode_text([*source, *target, *masked])
        rest += self._model.project(2 * count) + self._contrast(count)
        rest += self._model.fuse([*target, *target, *target, *masked], attended)
        rest += self._match_and_tokens(count, len(batch.source_masked.labels))
        return _Pass(0, rest, self._model.compare(count, count))

    def _joined_text(self, batch: JoinedTextBatch, is_padded: bool) -> _Pass:
        source, target, joined = _lengths([batch.source, batch.target, batch.joined.tokens], is_padded)
        rest: float = self._model.encode_text([*source, *target, *joined]) + self._model.fuse(joined, None)
        rest += self._model.project(2 * len(source)) + self._contrast(len(source))
        return _Pass(0, rest + self._model.token_logits(len(batch.joined.labels)))

    # ----------------------------------------------------------------------------------------------------- fine-tuning

    def _text_assignment(self, batch: ImageTextBatch, is_padded: bool) -> _Pass:
        (text,) = _lengths([batch.text], is_padded)
        count = len(text)
        rest = self._model.encode_text(text) + self._model.linear_head(count, 3)
        attended = self._images(count, count)
        without_gradient = self._model.project(count) + self._model.compare(count, count)
        return _Pass(count, rest + self._model.fuse_pair_first(text, attended, attended), without_gradient)

    def _retrieval(self, batch: RetrievalBatch, is_padded: bool) -> _Pass:
        (text,) = _lengths([batch.text], is_padded)
        count = len(text)
        rest: float = self._model.encode_text(text) + self._model.project(2 * count) + self._contrast(count)
        rest += self._model.fuse_first([*text, *text, *text], self._images(count, 3 * count))
        return _Pass(count, rest + self._model.mlp_head(3 * count, 2), self._model.compare(count, count))

    def _classification(self, batch: ClassificationBatch, is_padded: bool) -> _Pass:
        (text,) = _lengths([batch.text], is_padded)
        rest = self._model.encode_text(text) + self._model.mlp_head(len(text), self._classes)
        return _Pass(len(text), rest + self._model.fuse_first(text, self._images(len(text), len(text))))

    def _pair(self, batch: PairBatch, is_padded: bool) -> _Pass:
        (text,) = _lengths([batch.text], is_padded)
        rest = self._model.encode_text(text) + self._model.mlp_head(len(text), 2)
        attended = self._images(len(text), len(text))
        return _Pass(2 * len(text), rest + self._model.fuse_pair_first(text, attended, attended))

    def _answering(self, batch: AnswerBatch, is_padded: bool) -> _Pass:
        (questions,), (answers,) = _lengths([batch.questions], is_padded), _lengths([batch.answers], is_padded)
        rest: float = self._model.encode_text(questions)
        rest += self._model.fuse(questions, self._images(len(questions), len(questions)))
        of_answer = [questions[row] for row in batch.question_of_answer.tolist()]
        decoded = self._model.fusion_layer(answers, Attended(sum(questions), of_answer))
        rest += self._decoder_layers * decoded + self._model.token_logits(sum(answers))
        return _Pass(len(questions), rest)

    # ----------------------------------------------------------------------------------------------------- their parts

    def _images(self, images: int, texts: int) -> Attended:
        """What `texts` texts that attend to images meet, as computed: a region's mask hides patches, and saves none."""
        positions = self._model.image_positions
        return Attended(images * positions, [positions] * texts)

    def _contrast(self, rows: int) -> int:
        return self._model.compare(rows * self._processes, rows * self._processes)

    def _match_and_tokens(self, pairs: int, masked: int) -> int:
        return self._model.mlp_head(3 * pairs, 2) + self._model.token_logits(masked)


def _lengths(groups: Sequence[Sequences], is_padded: bool) -> list[list[int]]:
    """Length of each text of each group; padded, the longest of all groups, as they are encoded as one batch."""
    longest = max(group.data.shape[1] for group in groups)
    return [
        [longest if is_padded else group.data.shape[1]] * len(group)
        if is_padded or group.lengths is None
        else group.lengths.tolist()
        for group in groups
    ]


def _outputs(head: MlpHead) -> int:
    last = head[-1]
    assert isinstance(last, nn.Linear)
    return last.out_features
