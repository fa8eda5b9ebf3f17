"""The published training step, written out: what `benchmarks.step` compares with.

Every text is padded to the published length, every masked text has the published number of places, masked texts go
through the text encoder a second time, positives, negatives and masked texts go through the fusion encoder one after
the other, and the states of an image are repeated for each text that attends to them. Attention is written as matrix
products, a softmax, and dropout. The optimizer updates one parameter after the other.

Weights and draws are those of `PretrainTask`, so the losses of both are equal where nothing is dropped.

Dimension letters: B texts, N images, L published length of a text, K positions of the other view, H width, A heads,
D = H / A, P patches, M published number of masked places.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cclm.config.optimization import OptimizerConfig
from cclm.data.batches.batch import ImageTextBatch, MaskedText, ParallelTextBatch, PretrainBatch, RegionTextBatch
from cclm.model.attention import CrossAttention, SelfAttention
from cclm.model.cclm import CCLM
from cclm.model.vision import region_states
from cclm.sequences import Sequences
from cclm.tasks import losses
from cclm.tasks.pretraining_task import is_fresh
from cclm.training.optimizer import parameter_groups

IMAGE_TEXT_LENGTH, PARALLEL_LENGTH = 40, 64
"""Published numbers of tokens of a text, padding included."""
IMAGE_TEXT_MASKS, PARALLEL_MASKS = 12, 20
"""Published numbers of masked places of a text, unused ones included."""
PAD, UNUSED = 1, -100


class Padded(NamedTuple):
    """Texts or images in the published form."""

    data: Tensor
    """Token ids (B, L) int64, or states (B, L, H)."""
    mask: Tensor
    """(B, L) float32: 0 where a position may be attended to, -10000 elsewhere."""


class MaskedPlaces(NamedTuple):
    """Masked texts in the published form."""

    text: Padded
    columns: Tensor
    """(B, M) int64; 0 where a place is unused."""
    labels: Tensor
    """(B, M) int64; UNUSED where a place is unused."""


def padded(texts: Sequences, length: int) -> Padded:
    """Texts, padded to the published length."""
    assert texts.lengths is not None
    data = F.pad(texts.data, (0, length - texts.data.shape[1]), value=PAD)
    visible = torch.arange(length, device=data.device) < texts.lengths[:, None]
    return Padded(data, torch.where(visible, 0.0, -10000.0))


def masked_places(masked: MaskedText, length: int, places: int) -> MaskedPlaces:
    """Masked texts with the published number of places."""
    rows = len(masked.tokens)
    columns = torch.zeros(rows, places, dtype=torch.int64)
    labels = torch.full((rows, places), UNUSED)
    used = [0] * rows
    for row, column, label in zip(
        *(part.tolist() for part in (masked.rows, masked.columns, masked.labels)), strict=True
    ):
        columns[row, used[row]], labels[row, used[row]] = column, label
        used[row] += 1
    device = masked.rows.device
    return MaskedPlaces(padded(masked.tokens, length), columns.to(device), labels.to(device))


def published_optimizer(task: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW that updates one parameter after the other."""
    return torch.optim.AdamW(
        parameter_groups(task, config), betas=config.betas, eps=config.eps, fused=False, foreach=False
    )


class PlainTask(nn.Module):
    """The objective of `PretrainTask`, as published."""

    def __init__(self, model: CCLM) -> None:
        super().__init__()
        self.model = model

    def fresh_parameters(self) -> set[str]:
        """As in `PretrainTask`."""
        return {name for name, _ in self.named_parameters() if is_fresh(name)}

    def forward(self, batch: PretrainBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses by name, each ()."""
        self.model.space.clamp_temperature()
        match batch:
            case ImageTextBatch():
                return self.image_text(batch, generator)
            case RegionTextBatch():
                return self.region_text(batch, generator)
            case ParallelTextBatch():
                return self.parallel_text(batch, generator)
        raise TypeError(f"no published step for a {type(batch).__name__}")

    def image_text(self, batch: ImageTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        images = _visible(self.model.encoders.encode_images(batch.images))
        text = self._text(padded(batch.text, IMAGE_TEXT_LENGTH))
        masked = masked_places(batch.masked, IMAGE_TEXT_LENGTH, IMAGE_TEXT_MASKS)
        return self._losses("loss_itc", "loss_itm", images, text, masked, images, generator)

    def region_text(self, batch: RegionTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        whole = self.model.encoders.encode_images(batch.images)
        regions = _visible(region_states(whole, batch.image_of_text, batch.patches))
        text = self._text(padded(batch.text, IMAGE_TEXT_LENGTH))
        masked = masked_places(batch.masked, IMAGE_TEXT_LENGTH, IMAGE_TEXT_MASKS)
        result = self._losses("loss_itc", "loss_itm", regions, text, masked, regions, generator)
        in_image = self._fusion(text, _visible(Sequences.full(whole.data[batch.image_of_text])))
        predicted = self.model.box_head(in_image[:, 0]).float().sigmoid()
        box = losses.boxes(predicted, batch.boxes, ~batch.is_whole_image)
        return result | {"loss_bbox": box.l1, "loss_giou": box.giou}

    def parallel_text(self, batch: ParallelTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        source = self._text(padded(batch.source, PARALLEL_LENGTH))
        target = self._text(padded(batch.target, PARALLEL_LENGTH))
        masked = masked_places(batch.source_masked, PARALLEL_LENGTH, PARALLEL_MASKS)
        return self._losses("loss_ttc", "loss_ttm", source, target, masked, None, generator)

    def _losses(
        self,
        contrast: str,
        matching: str,
        left: Padded,
        text: Padded,
        masked: MaskedPlaces,
        context: Padded | None,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """The losses of pairs. `context` is what masked texts attend to; None: the texts `text`."""
        space = self.model.space
        project = space.image_features if context is not None else space.text_features
        left_features, text_features = project(left.data[:, 0]), space.text_features(text.data[:, 0])
        result = {contrast: losses.contrastive(left_features, text_features, space.temperature)}
        drawn = losses.draw_hard_negatives(left_features, text_features, space.temperature, generator)
        positive = self._fusion(text, left)[:, 0]
        left_negative, text_negative = _rows(left, drawn.left_of_right), _rows(text, drawn.right_of_left)
        negative = self._fusion(_both(text, text_negative), _both(left_negative, left))[:, 0]
        result[matching] = losses.matching(self.model.match_head(torch.cat([positive, negative])), drawn.exist)
        fused = self._fusion(self._text(masked.text), text if context is None else context)  # (B, L, H)
        picked = fused.gather(1, masked.columns[:, :, None].expand(-1, -1, fused.shape[-1]))  # (B, M, H)
        logits = self.model.token_logits(picked).float()
        result["loss_mlm"] = F.cross_entropy(logits.flatten(0, 1), masked.labels.flatten(), ignore_index=UNUSED)
        return result

    def _text(self, text: Padded) -> Padded:
        encoder = self.model.encoders.text_encoder
        states = encoder.embeddings(Sequences.full(text.data)).data
        for layer in encoder.layers:
            states = self_attention(layer.self_attention, states, text.mask)
            states = layer.feed_forward.transform(states)
        return Padded(states, text.mask)

    def _fusion(self, text: Padded, context: Padded) -> Tensor:
        states = text.data
        for layer in self.model.encoders.fusion_encoder.layers:
            states = self_attention(layer.self_attention, states, text.mask)
            states = cross_attention(layer.cross_attention, states, context)
            states = layer.feed_forward.transform(states)
        return states


def self_attention(layer: SelfAttention, states: Tensor, mask: Tensor) -> Tensor:
    """States (B, L, H) under a mask (B, L) -> (B, L, H)."""
    return _attended(layer, states, states, mask)


def cross_attention(layer: CrossAttention, states: Tensor, context: Padded) -> Tensor:
    """States (B, L, H) that attend to others (B, K, H) -> (B, L, H)."""
    return _attended(layer, states, context.data, context.mask)


def _attended(layer: SelfAttention | CrossAttention, states: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    heads = layer.num_heads

    def split(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, A, L, D)

    query, key, value = split(layer.query(states)), split(layer.key(others)), split(layer.value(others))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + mask[:, None, None, :]  # (B, A, L, K)
    weights = F.dropout(scores.softmax(dim=-1), layer.attention_dropout, layer.training)
    attended = (weights @ value).transpose(1, 2).flatten(2)  # (B, L, H)
    finished: Tensor = layer.norm(F.dropout(layer.output(attended), layer.dropout.p, layer.training) + states)
    return finished


def _visible(images: Sequences) -> Padded:
    mask = images.padding_mask()
    zeros = images.data.new_zeros(images.data.shape[:2], dtype=torch.float32)
    return Padded(images.data, zeros if mask is None else torch.where(mask, 0.0, -10000.0))


def _rows(texts: Padded, rows: Tensor) -> Padded:
    """One row after the other, as published."""
    return Padded(*(torch.stack([part[row] for row in rows.tolist()]) for part in texts))


def _both(first: Padded, second: Padded) -> Padded:
    return Padded(*(torch.cat(parts) for parts in zip(first, second, strict=True)))
