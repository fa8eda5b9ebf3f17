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
from functools import partial

import torch
from torch import Tensor, nn

from cclm.config.compute import ComputeConfig
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
from cclm.model.fast_paths import set_fast_paths
from cclm.model.vision import region_states
from cclm.sequences import AnySequences, PackedSequences, Sequences
from cclm.tasks import losses
from cclm.tasks.accumulation import concat, in_parts, rows_of_parts, twice
from cclm.tasks.fused_cross_entropy import fused_cross_entropy


class PretrainTask(nn.Module):
    """Model and pre-training objective. DDP wraps this module, since all uses of the model lie inside its forward."""

    def __init__(self, model: CCLM, objective: ObjectiveConfig, compute: ComputeConfig | None = None) -> None:
        """`compute` says how; None: with all fast paths."""
        super().__init__()
        self.model = model
        self.objective = objective
        self.compute = ComputeConfig() if compute is None else compute
        set_fast_paths(model, self.compute)

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
        images = self._encode_images(batch.images)  # (B, 1+P, H)
        text, masked, *second = self._encode_texts(batch.text, batch.masked.tokens, batch.second_text)
        image_features = self.model.space.image_features(images.first())  # (B, E)
        text_features = self.model.space.text_features(text.first())  # (B, E)
        ids = self._ids(batch.text, batch.second_text)
        result = {"loss_itc": self._contrast(image_features, text_features, ids)}
        if second:
            second_features = self.model.space.text_features(second[0].first())
            result["loss_itc"] = (result["loss_itc"] + self._contrast(image_features, second_features, ids)) / 2
            result["loss_ttc"] = self._contrast(text_features, second_features, ids)
        negatives = self._negatives(image_features, text_features, ids, generator)
        fused = self._fuse_pairs(images, text, negatives, masked=masked, masked_context=images, places=batch.masked)
        result["loss_itm"] = self._matching(fused, negatives)
        result["loss_mlm"] = self._masked_tokens(fused.masked, batch.masked)
        return result

    def region_text(self, batch: RegionTextBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of `image_text` on the regions that texts describe, and the regions' boxes in the whole images."""
        images = self._encode_images(batch.images)  # (N, 1+P, H)
        regions = region_states(images, batch.image_of_text, batch.patches)  # (B, 1+P, H)
        text, masked = self._encode_texts(batch.text, batch.masked.tokens)
        region_features = self.model.space.image_features(regions.first())  # (B, E)
        text_features = self.model.space.text_features(text.first())  # (B, E)
        ids = self._ids(batch.text)
        negatives = self._negatives(region_features, text_features, ids, generator)
        fused = self._fuse_pairs(regions, text, negatives, masked=masked, masked_context=regions, places=batch.masked)
        in_image = self._fuse_first(text, images, batch.image_of_text)  # (B, H)
        predicted = self.model.box_head(in_image).float().sigmoid()  # (B, 4)
        counted = ~batch.is_whole_image
        if self.objective.box_loss_on_whole_images:
            counted = torch.ones_like(counted)
        box = losses.boxes(predicted, batch.boxes, counted)
        return {
            "loss_itc": self._contrast(region_features, text_features, ids),
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
        ids = self._ids(batch.source, batch.target)
        negatives = self._negatives(source_features, target_features, ids, generator)
        fused = self._fuse_pairs(
            source, target, negatives, masked=masked, masked_context=target, places=batch.source_masked
        )
        return {
            "loss_ttc": self._contrast(source_features, target_features, ids),
            "loss_ttm": self._matching(fused, negatives),
            "loss_mlm": self._masked_tokens(fused.masked, batch.source_masked),
        }

    def joined_text(self, batch: JoinedTextBatch) -> dict[str, Tensor]:
        """Text-text contrast, and masked tokens of the joined pair without another view (TLM)."""
        source, target, joined = self._encode_texts(batch.source, batch.target, batch.joined.tokens)
        completed = in_parts(self._fuse_alone, joined, self.compute.accumulate)
        source_features = self.model.space.text_features(source.first())  # (B, E)
        target_features = self.model.space.text_features(target.first())  # (B, E)
        return {
            "loss_ttc": self._contrast(source_features, target_features, self._ids(batch.source, batch.target)),
            "loss_mlm": self._masked_tokens(completed.at(batch.joined.rows, batch.joined.columns), batch.joined),
        }

    def _encode_texts(self, *texts: Sequences | None) -> list[AnySequences]:
        """Encode groups of texts: token ids -> states of each group. Absent groups are left out."""
        present = [text for text in texts if text is not None]
        if not self.compute.one_text_pass:
            return [self._encode(text) for text in present]
        return list(self._encode(Sequences.concat(present)).split([len(text) for text in present]))

    def _encode(self, texts: Sequences) -> AnySequences:
        """Token ids (B, L) -> states (B, L, H), packed where that is wanted."""
        encode = self.model.encoders.encode_text

        def encode_part(part: AnySequences) -> AnySequences:
            return encode(part) if isinstance(part, PackedSequences) else encode(part)

        return in_parts(encode_part, self._packed(texts), self.compute.accumulate)

    def _encode_images(self, images: Tensor) -> Sequences:
        """Pixels (N, R, R, 3) -> states (N, 1 + P, H)."""

        def encode_part(part: AnySequences) -> AnySequences:
            return self.model.encoders.encode_images(part.data)

        states = in_parts(encode_part, Sequences.full(images), self.compute.accumulate)
        assert isinstance(states, Sequences)
        return states

    def _packed(self, sequences: AnySequences) -> AnySequences:
        """The same without padding, where that is wanted."""
        if isinstance(sequences, PackedSequences) or not packs_texts(self.compute, sequences.device):
            return sequences
        return PackedSequences.pack(sequences)

    def _ids(self, *texts: Sequences | None) -> Tensor | None:
        """(B, K) int64, one id for each text of a row: rows that share an id belong together.

        None where equal texts are negatives of each other, as published.
        """
        if not self.objective.equal_texts_are_positives:
            return None
        return torch.stack([text.fingerprints() for text in texts if text is not None], dim=1)

    def _contrast(self, left: Tensor, right: Tensor, ids: Tensor | None) -> Tensor:
        return losses.contrastive(
            left,
            right,
            self.model.space.temperature,
            ids=ids,
            global_gradient=self.objective.contrastive_gradient == "global",
        )

    def _negatives(
        self, left: Tensor, right: Tensor, ids: Tensor | None, generator: torch.Generator
    ) -> losses.HardNegatives:
        return losses.draw_hard_negatives(left, right, self.model.space.temperature, generator, ids)

    def _fuse_pairs(
        self,
        left: AnySequences,
        right: AnySequences,
        negatives: losses.HardNegatives,
        *,
        masked: AnySequences,
        masked_context: AnySequences,
        places: MaskedText,
    ) -> FusedPairs:
        """Run the fusion encoder on all pairs of a step.

        For matching, right texts attend to left views. For masked tokens, text i of `masked` attends to row i of
        `masked_context`; `places` are the positions that are read of it.
        """
        views = Views(
            left=self._packed(left),
            right=right,
            masked=masked,
            masked_context=None if masked_context is left else self._packed(masked_context),
        )
        if self.compute.accumulate == 1:
            return self._fuse_views(views, negatives, places)
        fused, read = [], []
        for rows in rows_of_parts(len(masked), self.compute.accumulate, right.device):
            part = _rows_of(places, rows)
            fused.append(twice(partial(self._fuse_rows, views, negatives, places, rows, part), right.device))
            read.append(part)
        matching = [torch.cat(pairs) for pairs in zip(*(part.matching.chunk(3) for part in fused), strict=True)]
        completed = torch.cat([part.masked for part in fused])
        return FusedPairs(torch.cat(matching), completed.index_select(0, torch.cat(read).argsort()))

    def _fuse_rows(
        self, views: Views, negatives: losses.HardNegatives, places: MaskedText, rows: Tensor, read: Tensor
    ) -> FusedPairs:
        """The pairs of the texts numbered `rows` (b,) alone; `read` are the numbers of the places in them."""
        own = torch.arange(len(rows), device=rows.device)
        part = Views(
            left=views.left.select(torch.cat([rows, negatives.left_of_right[rows]])),
            right=views.right.select(torch.cat([rows, negatives.right_of_left[rows]])),
            masked=views.masked.select(rows),
            masked_context=None if views.masked_context is None else views.masked_context.select(rows),
        )
        drawn = losses.HardNegatives(len(rows) + own, len(rows) + own, negatives.exist[rows])
        masked = MaskedText(places.tokens, places.rows[read] - rows[0], places.columns[read], places.labels[read])
        return self._fuse_views(part, drawn, masked)

    def _fuse_views(self, views: Views, negatives: losses.HardNegatives, places: MaskedText) -> FusedPairs:
        """Fuse all pairs as one batch. Keys and values of a left view are computed once."""
        own = torch.arange(len(views.masked), device=places.rows.device)
        # (4B,), of `right` and `masked`
        rows = torch.cat([own, own, negatives.right_of_left, len(views.right) + own])
        of_texts = torch.cat([own, negatives.left_of_right, own])  # (3B,) of `left`
        if views.masked_context is None:
            contexts, of_masked = views.left, own
        else:
            contexts, of_masked = concat([views.left, views.masked_context]), len(views.left) + own
        context = Context(contexts, torch.cat([of_texts, of_masked]))
        if not self.compute.shared_views:
            assert context.rows is not None
            context = Context(contexts.select(context.rows))
        return self._fuse(concat([views.right, views.masked]), rows, context, places)

    def _fuse(self, texts: AnySequences, rows: Tensor, context: Context, places: MaskedText) -> FusedPairs:
        """Fuse the texts numbered `rows` (4B,): the last B of them are masked, of the others position 0 is read."""
        pairs, fusion = len(rows) // 4 * 3, self.model.encoders.fusion_encoder
        if not isinstance(texts, PackedSequences):
            padded = self.model.encoders.fuse(texts.select(rows), context)  # (4B, L, H)
            return FusedPairs(padded.first()[:pairs], padded.at(pairs + places.rows, places.columns))
        shares = self.compute.shared_self_attention and fusion.can_prepare
        chosen = fusion.prepare(texts).select(rows) if shares else texts.select(rows)
        masked = chosen.starts[pairs + places.rows] + places.columns  # (M,)
        if not self.compute.read_positions:
            fuse_all = fusion.forward_prepared if shares else fusion.forward
            fused: PackedSequences = fuse_all(chosen, context)
            return FusedPairs(fused.first()[:pairs], fused.data.index_select(0, masked))
        counts = torch.cat([torch.ones_like(rows[:pairs]), places.rows.bincount(minlength=len(rows) - pairs)])
        order = places.rows.argsort(stable=True)
        read = PackedSequences.of(torch.cat([chosen.starts[:pairs], masked[order]]), counts)
        fuse = fusion.forward_at_prepared if shares else fusion.forward_at
        matching, completed = torch.split(fuse(chosen, context, read).data, [pairs, len(masked)])
        return FusedPairs(matching, completed.index_select(0, order.argsort()))

    def _fuse_first(self, texts: AnySequences, images: Sequences, image_of_text: Tensor) -> Tensor:
        """States of texts (B, L, H) and of their images (N, 1 + P, H) -> fused states at position 0, (B, H)."""
        if self.compute.accumulate == 1:
            return self._fuse_first_with(texts, Context(images, image_of_text))

        def fuse_rows(rows: Tensor) -> Tensor:
            return self._fuse_first_with(texts.select(rows), Context(images.select(image_of_text[rows])))

        parts = rows_of_parts(len(texts), self.compute.accumulate, texts.device)
        return torch.cat([twice(partial(fuse_rows, rows), texts.device) for rows in parts])

    def _fuse_first_with(self, texts: AnySequences, context: Context) -> Tensor:
        encoders = self.model.encoders
        if self.compute.read_positions:
            if isinstance(texts, PackedSequences):
                return encoders.fuse_first(texts, context)
            return encoders.fuse_first(texts, context)
        fused = encoders.fuse(texts, context) if isinstance(texts, PackedSequences) else encoders.fuse(texts, context)
        return fused.first()

    def _fuse_alone(self, texts: AnySequences) -> AnySequences:
        """States (B, L, H) -> states after the fusion encoder without another view."""
        fuse = self.model.encoders.fuse
        return fuse(texts, None) if isinstance(texts, PackedSequences) else fuse(texts, None)

    def _matching(self, fused: FusedPairs, negatives: losses.HardNegatives) -> Tensor:
        return losses.matching(self.model.match_head(fused.matching), negatives.exist)

    def _masked_tokens(self, states: Tensor, masked: MaskedText) -> Tensor:
        """Loss of the masked positions, whose states (M, H) are given."""
        if self.compute.fused_cross_entropy:
            return fused_cross_entropy(*self.model.token_projection(states), masked.labels)
        return losses.masked_tokens(self.model.token_logits(states), masked.labels)


def packs_texts(compute: ComputeConfig, device: torch.device) -> bool:
    """Whether a step on this device computes texts without their padding."""
    return compute.packed_texts and device.type == "cpu"


def _rows_of(places: MaskedText, rows: Tensor) -> Tensor:
    """(m,) int64: the numbers of the masked places in the consecutive texts `rows`. A GPU has to be waited for."""
    return ((places.rows >= rows[0]) & (places.rows <= rows[-1])).nonzero()[:, 0]


@dataclass(frozen=True)
class Views:
    """What a step fuses: states of B rows, or of some of them and the negatives drawn for these."""

    left: AnySequences
    """What right texts attend to: first the own ones."""
    right: AnySequences
    """Texts: first the own ones."""
    masked: AnySequences
    """Texts with masked tokens, one a row."""
    masked_context: AnySequences | None
    """What these attend to; None: the own ones of `left`."""


@dataclass(frozen=True)
class FusedPairs:
    """States of a step's pairs after fusion."""

    matching: Tensor
    """(3B, H) states at position 0: B true pairs, then B of (drawn left, right) and B of (left, drawn right)."""
    masked: Tensor
    """(M, H) states of the masked positions."""


_FRESH = ("space.", "match_head.", "box_head.", "cross_attention.", "class_head.")


def is_fresh(name: str) -> bool:
    """Whether neither Swin's nor XLM-R's weights hold a parameter, so that pre-training starts it from random numbers.

    These are heads, projections, temperature and cross-attention: the `init_params` of the published code.
    """
    return any(part in name for part in _FRESH)
