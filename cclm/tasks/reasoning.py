"""Two images and one sentence: NLVR2 and MaRVL, and text assignment, which pre-trains for them (as published).

Dimension letters: B sentences, L tokens, P patches, H width, E width of the shared space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.data.batches.batch import ImageTextBatch
from cclm.data.batches.finetuning_batch import PairBatch
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.model.heads import MlpHead
from cclm.model.pair import PairFusionEncoder
from cclm.sequences import AnySequences, Sequences

ASSIGNMENT_TEMPERATURE = 0.07
LEFT, RIGHT, NEITHER = 0, 1, 2


class PairEncoders(nn.Module):
    """Encoders in which fusion attends to a left and a right image."""

    def __init__(self, pretrained: CCLM) -> None:
        super().__init__()
        self.image_encoder = pretrained.encoders.image_encoder
        self.text_encoder = pretrained.encoders.text_encoder
        self.fusion_encoder = PairFusionEncoder(pretrained.encoders.fusion_encoder)

    def first_states(self, text: AnySequences, left: Context, right: Context) -> Tensor:
        """Token ids (B, L) with both images -> (B, H) at position 0."""
        return self.fusion_encoder.forward_first(self.text_encoder(text), left, right)


class PairTask(nn.Module):
    """Is the sentence true of the two images? Classes: 1 true, 0 false."""

    def __init__(self, pretrained: CCLM) -> None:
        super().__init__()
        self.encoders = PairEncoders(pretrained)
        self.class_head = MlpHead(pretrained.token_head.transform.in_features, 2)

    def fresh_parameters(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.startswith("class_head.")}

    def logits(self, left: Tensor, right: Tensor, text: Sequences) -> Tensor:
        """Images (B, R, R, 3) uint8 twice and token ids (B, L) -> (B, 2)."""
        both = self.encoders.image_encoder(torch.cat([left, right]))  # (2B, 1+P, H)
        left_states, right_states = both.split([len(left), len(right)])
        return self.logits_of(Context(left_states), Context(right_states), text)

    def logits_of(self, left: Context, right: Context, text: AnySequences) -> Tensor:
        """Images encoded already, and token ids (B, L) -> (B, 2)."""
        return self.class_head(self.encoders.first_states(text, left, right))

    def forward(self, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.logits(batch.left, batch.right, batch.text).float(), batch.labels)}


def draw_pairs(similarity: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of images (B, B) -> label, number of the left image, of the right one, each (B,) int64.

    LEFT, RIGHT and neither have probability 1/3 each; an image that is not the text's own is a hard negative.
    """
    own = torch.arange(len(similarity), device=similarity.device)
    weights = (similarity / ASSIGNMENT_TEMPERATURE).softmax(dim=1).fill_diagonal_(0.0)
    drawn = torch.multinomial(weights, 2, replacement=True, generator=generator)  # (B, 2)
    labels = torch.randint(0, 3, (len(own),), generator=generator, device=own.device)
    return labels, torch.where(labels == LEFT, own, drawn[:, 0]), torch.where(labels == RIGHT, own, drawn[:, 1])


class TextAssignmentTask(nn.Module):
    """To which of two images does the text belong: the left one, the right one, or neither?"""

    def __init__(self, pretrained: CCLM) -> None:
        super().__init__()
        hidden_size = pretrained.token_head.transform.in_features
        self.encoders = PairEncoders(pretrained)
        self.space = pretrained.space
        self.assignment_head = nn.Linear(hidden_size, 3)

    def fresh_parameters(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.startswith("assignment_head.")}

    def logits(self, text: Sequences, left: Context, right: Context) -> Tensor:
        """Token ids (B, L) -> (B, 3): left, right, neither."""
        return self.assignment_head(self.encoders.first_states(text, left, right))

    @torch.no_grad()
    def image_similarity(self, images: Sequences) -> Tensor:
        """States (B, 1+P, H) -> cosines in the shared space, (B, B) float32."""
        features = self.space.image_features(images.first())
        return features @ features.T

    def forward(self, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """With probability 2/3 the text's own image and one hard negative, left or right by a coin; else two."""
        images = self.encoders.image_encoder(batch.images)  # (B, 1+P, H)
        labels, left, right = draw_pairs(self.image_similarity(images), generator)
        logits = self.logits(batch.text, Context(images, left), Context(images, right))
        return {"loss_ta": F.cross_entropy(logits.float(), labels)}
