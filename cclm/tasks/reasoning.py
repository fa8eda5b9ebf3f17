"""Two images and one sentence: NLVR2 and MaRVL, and text assignment, which pre-trains for them as published.

See docs/method.md, section Fine-tuning tasks.

Dimension letters: B sentences, R image side in pixels, L tokens, P patches, H width, E width of the shared space. Token
ids are int64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.data.batches.batch import ImageTextBatch
from cclm.data.batches.finetuning_batch import PairBatch
from cclm.model.attention import Context, SequencesT
from cclm.model.cclm import CCLM
from cclm.model.heads import MlpHead
from cclm.model.pair import PairFusionEncoder
from cclm.sequences import Sequences

ASSIGNMENT_TEMPERATURE = 0.07
"""Divides the cosines from which hard negative images are drawn."""
LEFT, RIGHT, NEITHER = 0, 1, 2  # labels of text assignment


class PairEncoders(nn.Module):
    """Encoders whose fusion attends to a left and a right image."""

    def __init__(self, pretrained: CCLM) -> None:
        super().__init__()
        self.image_encoder = pretrained.encoders.image_encoder
        self.text_encoder = pretrained.encoders.text_encoder
        self.fusion_encoder = PairFusionEncoder(pretrained.encoders.fusion_encoder)

    def fuse_first(self, text: SequencesT, left: Context, right: Context) -> Tensor:
        """Token ids (B, L) and both images -> states at position 0, (B, H)."""
        states: SequencesT = self.text_encoder(text)  # (B, L, H)
        return self.fusion_encoder.forward_first(states, left, right)


class PairTask(nn.Module):
    """Is the sentence true of the two images? Class 1 is true, class 0 is false."""

    def __init__(self, pretrained: CCLM) -> None:
        super().__init__()
        self.encoders = PairEncoders(pretrained)
        self.class_head = MlpHead(pretrained.token_head.transform.in_features, 2)

    def fresh_parameters(self) -> set[str]:
        """Names of parameters without pre-trained weights: those of the class head."""
        return {name for name, _ in self.named_parameters() if name.startswith("class_head.")}

    def logits(self, left: Tensor, right: Tensor, text: Sequences) -> Tensor:
        """Images (B, R, R, 3) uint8, left and right, and token ids (B, L) -> logits (B, 2)."""
        both: Sequences = self.encoders.image_encoder(torch.cat([left, right]))  # (2B, 1+P, H)
        left_states, right_states = both.split([len(left), len(right)])
        return self.logits_from_states(Context(left_states), Context(right_states), text)

    def logits_from_states(self, left: Context, right: Context, text: SequencesT) -> Tensor:
        """States of images, left and right, and token ids (B, L) -> logits (B, 2)."""
        logits: Tensor = self.class_head(self.encoders.fuse_first(text, left, right))
        return logits

    def forward(self, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss": ()}: cross-entropy over both classes. `generator` is not used."""
        return {"loss": F.cross_entropy(self.logits(batch.left, batch.right, batch.text).float(), batch.labels)}


class ImagePairs(NamedTuple):
    """Two images for each text, and which of them is the text's own. Each field is (B,) int64."""

    labels: Tensor
    """LEFT, RIGHT or NEITHER."""
    left: Tensor
    """Row of the left image."""
    right: Tensor
    """Row of the right image."""


def draw_pairs(similarity: Tensor, generator: torch.Generator) -> ImagePairs:
    """Draw two images for each text.

    LEFT, RIGHT and NEITHER have probability 1/3 each. An image that is not the text's own is a hard negative. It is
    drawn with a probability that grows with its similarity to the text's own image.

    Args:
        similarity: cosines of the images of a batch, (B, B) float32.
        generator: on the device of `similarity`.
    """
    own = torch.arange(len(similarity), device=similarity.device)
    # Features that are not finite must not break the draw: the training loop stops at the loss, which is not finite
    # either.
    weights = (similarity / ASSIGNMENT_TEMPERATURE).softmax(dim=1).nan_to_num(nan=1.0).fill_diagonal_(0.0)
    drawn = torch.multinomial(weights, 2, replacement=True, generator=generator)  # (B, 2)
    labels = torch.randint(0, 3, (len(own),), generator=generator, device=own.device)
    return ImagePairs(
        labels,
        left=torch.where(labels == LEFT, own, drawn[:, 0]),
        right=torch.where(labels == RIGHT, own, drawn[:, 1]),
    )


class TextAssignmentTask(nn.Module):
    """To which of two images does the text belong: the left one, the right one, or neither?"""

    def __init__(self, pretrained: CCLM) -> None:
        super().__init__()
        hidden_size = pretrained.token_head.transform.in_features
        self.encoders = PairEncoders(pretrained)
        self.space = pretrained.space
        self.assignment_head = nn.Linear(hidden_size, 3)

    def fresh_parameters(self) -> set[str]:
        """Names of parameters without pre-trained weights: those of the assignment head."""
        return {name for name, _ in self.named_parameters() if name.startswith("assignment_head.")}

    def logits(self, text: Sequences, left: Context, right: Context) -> Tensor:
        """Token ids (B, L) and states of images -> logits (B, 3): LEFT, RIGHT, NEITHER."""
        logits: Tensor = self.assignment_head(self.encoders.fuse_first(text, left, right))
        return logits

    @torch.no_grad()
    def image_similarity(self, images: Sequences) -> Tensor:
        """States of images (B, 1+P, H) -> their cosines in the shared space, (B, B) float32."""
        features = self.space.image_features(images.first())
        return features @ features.T

    def forward(self, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss_ta": ()}: cross-entropy over LEFT, RIGHT and NEITHER.

        `generator` draws labels and hard negatives (`draw_pairs`); it is on the batch's device.
        """
        images: Sequences = self.encoders.image_encoder(batch.images)  # (B, 1+P, H)
        pairs = draw_pairs(self.image_similarity(images), generator)
        logits = self.logits(batch.text, Context(images, pairs.left), Context(images, pairs.right))
        return {"loss_ta": F.cross_entropy(logits.float(), pairs.labels)}
