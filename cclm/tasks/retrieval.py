"""Image-text retrieval: the fine-tuning loss (Multi30K, COCO, xFlickr&CO, WIT). `rescoring` computes scores.

See docs/method.md, sections Fine-tuning tasks and Pre-training objectives.

Dimension letters: B pairs of a batch, L tokens, P patches, H width, E width of the shared space.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cclm.data.batches.finetuning_batch import RetrievalBatch
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.sequences import Sequences
from cclm.tasks import losses


class RetrievalTask(nn.Module):
    """Contrast and matching as in pre-training, but captions of one image, known by its id, are no negatives of it."""

    def __init__(self, pretrained: CCLM) -> None:
        super().__init__()
        self.encoders = pretrained.encoders
        self.space = pretrained.space
        self.match_head = pretrained.match_head

    def fresh_parameters(self) -> set[str]:
        """Names of parameters without pre-trained weights: none."""
        return set()

    def forward(self, batch: RetrievalBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses by name, each (). `generator` draws the hard negatives; it is on the batch's device."""
        images = self.encoders.encode_images(batch.images)  # (B, 1+P, H)
        text = self.encoders.encode_text(batch.text)  # (B, L, H)
        image_features = self.space.image_features(images.first())  # (B, E)
        text_features = self.space.text_features(text.first())  # (B, E)
        temperature = self.space.temperature
        negatives = losses.draw_hard_negatives(image_features, text_features, temperature, generator, batch.image_ids)
        own = torch.arange(len(text), device=text.device)
        pairs = Sequences.concat([text, text, text.select(negatives.right_of_left)])
        context = Context(images, torch.cat([own, negatives.left_of_right, own]))
        return {
            "loss_itc": losses.contrastive(image_features, text_features, temperature, ids=batch.image_ids),
            "loss_itm": losses.matching(self.match_head(self.encoders.fuse_first(pairs, context)), negatives.exist),
        }
