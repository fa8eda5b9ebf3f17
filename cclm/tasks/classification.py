"""One image and one sentence, several classes (XVNLI).

See docs/method.md, section Fine-tuning tasks.

Dimension letters: B pairs, R image side in pixels, L tokens, C classes. Token ids are int64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.data.batches.finetuning_batch import ClassificationBatch
from cclm.model.attention import Context, SequencesT
from cclm.model.cclm import CCLM
from cclm.model.heads import MlpHead
from cclm.sequences import Sequences


class ClassificationTask(nn.Module):
    """Encoders, and a class head on the fused text's position 0."""

    def __init__(self, pretrained: CCLM, num_classes: int) -> None:
        super().__init__()
        self.encoders = pretrained.encoders
        self.class_head = MlpHead(pretrained.token_head.transform.in_features, num_classes)

    def fresh_parameters(self) -> set[str]:
        """Names of parameters without pre-trained weights: those of the class head."""
        return {name for name, _ in self.named_parameters() if name.startswith("class_head.")}

    def logits(self, images: Tensor, text: Sequences) -> Tensor:
        """Images (B, R, R, 3) uint8 and token ids (B, L) -> logits (B, C)."""
        return self.logits_from_states(Context(self.encoders.encode_images(images)), text)

    def logits_from_states(self, images: Context, text: SequencesT) -> Tensor:
        """States of images, and token ids (B, L) -> logits (B, C)."""
        states = self.encoders.encode_text(text)  # (B, L, H)
        logits: Tensor = self.class_head(self.encoders.fuse_first(states, images))
        return logits

    def forward(self, batch: ClassificationBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """{"loss": ()}: cross-entropy over classes. `generator` is not used."""
        return {"loss": F.cross_entropy(self.logits(batch.images, batch.text).float(), batch.labels)}
