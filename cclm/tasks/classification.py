"""One image and one sentence, n classes (XVNLI). B pairs, L tokens, P patches, H width, C classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.data.batches.finetuning_batch import ClassificationBatch
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.model.heads import MlpHead
from cclm.sequences import AnySequences, Sequences


class ClassificationTask(nn.Module):
    def __init__(self, pretrained: CCLM, num_classes: int) -> None:
        super().__init__()
        self.encoders = pretrained.encoders
        self.class_head = MlpHead(pretrained.token_head.transform.in_features, num_classes)

    def fresh_parameters(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.startswith("class_head.")}

    def logits(self, images: Tensor, text: Sequences) -> Tensor:
        """Images (B, R, R, 3) uint8 and token ids (B, L) -> (B, C)."""
        return self.logits_of(Context(self.encoders.encode_images(images)), text)

    def logits_of(self, images: Context, text: AnySequences) -> Tensor:
        """Images encoded already, and token ids (B, L) -> (B, C)."""
        return self.class_head(self.encoders.fuse_first(self.encoders.encode_text(text), images))

    def forward(self, batch: ClassificationBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.logits(batch.images, batch.text).float(), batch.labels)}
