"""Cross-view pre-training: from a batch to named losses, with one method for each kind of batch.

All kinds of batch follow one idea. There is a *left* view (an image, a region, or a text) and a *right* view (a text
about it). Contrast pulls both together, matching separates them from hard negatives, and the masked tokens of the right
view are predicted with the help of the left view.

Source: arXiv 2206.00621, section 3.2; docs/method.md, section Pre-training objectives.

Dimension letters: B texts, N images, L tokens, P patches, H width, E width of the shared space, M masked tokens. States
and features are on the batch's device; features and losses are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cclm.config.pretrain import ObjectiveConfig
from cclm.data.batches.batch import (
    ImageTextBatch,
    JoinedTextBatch,
    MaskedText,
    ParallelTextBatch,
    PretrainBatch,
    RegionTextBatch,
)
from cclm.model.attention import Context
from cclm.model.cclm import CCLM
from cclm.model.vision import region_states
from cclm.sequences import Sequences
from cclm.tasks import losses


class PretrainTask(nn.Module):
    """Model and pre-training objective. DDP wraps this module, since all uses of the model lie inside its forward."""

    def __init__(self, model: CCLM, objective: ObjectiveConfig) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def fresh_parameters(self) -> set[str]:
        """Names of parameters without initial weights. As published, their learning rate is `lr_mult` times as high."""
        return {name for name, _ in self.named_parameters() if is_fresh(name)}

    def forward(self, batch: PretrainBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses by name, each (). Published training sums them with weight 1.

        `generator` draws the hard negatives; it is on the batch's device.
        """
        self.model.space.clamp_temperature()
        match batch:
            case ImageTextBatch():
                return self.image_text(batch, generator)
            case RegionTextBatch():
                return self.region_text(batch, generator)
            case ParallelTextBatch():
                return self.parallel_text(batch, generator)
            case JoinedTextBatch():
                return self.joined_text(batch)
        raise TypeError(f"no pre-training loss for a {type(batch).__name__}")

    def image_text(self, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Image-text contrast, matching and masked tokens. With a second caption, also text-text contrast."""
        images = self.model.encoders.encode_images(batch.images)  # (B, 1+P, H)
        text, masked, *second = self._encode_texts(batch.text, batch.masked.tokens, batch.second_text)
        image_features = self.model.space.image_features(images.first())  # (B, E)
        text_features = self.model.space.text_features(text.first())  # (B, E)
        result = {"loss_itc": self._contrast(image_features, text_features)}
        if second:
            second_features = self.model.space.text_features(second[0].first())
            result["loss_itc"] = (result["loss_itc"] + self._contrast(image_features, second_features)) / 2
            result["loss_ttc"] = self._contrast(text_features, second_features)
        negatives = self._negatives(image_features, text_features, generator)
        fused = self._fuse_pairs(images, text, negatives, masked=masked, masked_context=images)
        result["loss_itm"] = self._matching(fused, negatives)
        result["loss_mlm"] = self._masked_tokens(fused.masked, batch.masked)
        return result

    def region_text(self, batch: RegionTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of `image_text` on the regions that texts describe, and the regions' boxes in the whole images."""
        images = self.model.encoders.encode_images(batch.images)  # (N, 1+P, H)
        regions = region_states(images, batch.image_of_text, batch.patches)  # (B, 1+P, H)
        text, masked = self._encode_texts(batch.text, batch.masked.tokens)
        region_features = self.model.space.image_features(regions.first())  # (B, E)
        text_features = self.model.space.text_features(text.first())  # (B, E)
        negatives = self._negatives(region_features, text_features, generator)
        fused = self._fuse_pairs(regions, text, negatives, masked=masked, masked_context=regions)
        in_image = self.model.encoders.fuse(text, Context(images, batch.image_of_text))  # (B, L, H)
        predicted = self.model.box_head(in_image.first()).float().sigmoid()  # (B, 4)
        counted = ~batch.is_whole_image
        if self.objective.box_loss_on_whole_images:
            counted = torch.ones_like(counted)
        box = losses.boxes(predicted, batch.boxes, counted)
        return {
            "loss_itc": self._contrast(region_features, text_features),
            "loss_itm": self._matching(fused, negatives),
            "loss_mlm": self._masked_tokens(fused.masked, batch.masked),
            "loss_bbox": box.l1,
            "loss_giou": box.giou,
        }

    def parallel_text(self, batch: ParallelTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """A text takes the image's place. The target attends to the source; the masked source attends to the target."""
        source, target, masked = self._encode_texts(batch.source, batch.target, batch.source_masked.tokens)
        source_features = self.model.space.text_features(source.first())  # (B, E)
        target_features = self.model.space.text_features(target.first())  # (B, E)
        negatives = self._negatives(source_features, target_features, generator)
        fused = self._fuse_pairs(source, target, negatives, masked=masked, masked_context=target)
        return {
            "loss_ttc": self._contrast(source_features, target_features),
            "loss_ttm": self._matching(fused, negatives),
            "loss_mlm": self._masked_tokens(fused.masked, batch.source_masked),
        }

    def joined_text(self, batch: JoinedTextBatch) -> dict[str, Tensor]:
        """Text-text contrast, and masked tokens of the joined pair without another view (TLM)."""
        source, target, joined = self._encode_texts(batch.source, batch.target, batch.joined.tokens)
        completed = self.model.encoders.fuse(joined, None)
        return {
            "loss_ttc": self._contrast(
                self.model.space.text_features(source.first()), self.model.space.text_features(target.first())
            ),
            "loss_mlm": self._masked_tokens(completed, batch.joined),
        }

    def _encode_texts(self, *texts: Sequences | None) -> list[Sequences]:
        """Encode groups of texts as one batch: token ids -> states of each group. Absent groups are left out."""
        present = [text for text in texts if text is not None]
        states = self.model.encoders.encode_text(Sequences.concat(present))
        return states.split([len(text) for text in present])

    def _contrast(self, left: Tensor, right: Tensor) -> Tensor:
        return losses.contrastive(
            left,
            right,
            self.model.space.temperature,
            global_gradient=self.objective.contrastive_gradient == "global",
        )

    def _negatives(self, left: Tensor, right: Tensor, generator: torch.Generator) -> losses.HardNegatives:
        return losses.draw_hard_negatives(left, right, self.model.space.temperature, generator)

    def _fuse_pairs(
        self,
        left: Sequences,
        right: Sequences,
        negatives: losses.HardNegatives,
        *,
        masked: Sequences,
        masked_context: Sequences,
    ) -> FusedPairs:
        """Run the fusion encoder on all pairs of a step as one batch. Keys and values of a left view are computed once.

        For matching, right texts attend to left views. For masked tokens, text i of `masked` attends to row i of
        `masked_context`.
        """
        own = torch.arange(len(right), device=right.device)
        texts = Sequences.concat([right, right, right.select(negatives.right_of_left), masked])
        rows = [own, negatives.left_of_right, own]
        if masked_context is left:
            context = Context(left, torch.cat([*rows, own]))
        else:
            context = Context(Sequences.concat([left, masked_context]), torch.cat([*rows, len(left) + own]))
        fused = self.model.encoders.fuse(texts, context)  # (4B, L, H)
        pairs, completed = fused.split([3 * len(right), len(masked)])
        return FusedPairs(matching=pairs.first(), masked=completed)

    def _matching(self, fused: FusedPairs, negatives: losses.HardNegatives) -> Tensor:
        return losses.matching(self.model.match_head(fused.matching), negatives.exist)

    def _masked_tokens(self, states: Sequences, masked: MaskedText) -> Tensor:
        picked = states.at(masked.rows, masked.columns)  # (M, H)
        return losses.masked_tokens(self.model.token_logits(picked), masked.labels)


@dataclass(frozen=True)
class FusedPairs:
    """States of a step's pairs after fusion."""

    matching: Tensor
    """(3B, H) states at position 0: B true pairs, then B of (drawn left, right) and B of (left, drawn right)."""
    masked: Sequences
    """(B, L, H) states of the masked texts."""


_FRESH = ("space.", "match_head.", "box_head.", "cross_attention.", "class_head.")


def is_fresh(name: str) -> bool:
    """Whether neither Swin's nor XLM-R's weights hold a parameter, so that pre-training starts it from random numbers.

    These are heads, projections, temperature and cross-attention: the `init_params` of the published code.
    """
    return any(part in name for part in _FRESH)
