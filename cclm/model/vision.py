"""Image encoder: timm's Swin or ViT, which gives a [CLS] state and one state for each patch.

Swin (arXiv 2103.14030) has no [CLS]; as in published CCLM, the mean of the patches takes its place. See docs/method.md,
section Model.

Dimension letters: N images, B texts, R image side in pixels, P patches (R / total stride)^2, H width.
"""

from __future__ import annotations

import functools

import torch
from timm.layers import QuickGELU
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cclm.config.model import VisionConfig
from cclm.pixels import normalised
from cclm.sequences import Sequences


def _swin(config: VisionConfig) -> SwinTransformer:
    return SwinTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=0,
        embed_dim=config.embed_dim,
        depths=config.depths,
        num_heads=config.num_heads,
        window_size=config.window_size,
        drop_path_rate=config.drop_path,
    )


def _vit(config: VisionConfig) -> VisionTransformer:
    clip = config.architecture == "clip_vit"
    return VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=0,
        global_pool="",
        embed_dim=config.embed_dim,
        depth=config.depths[0],
        num_heads=config.num_heads[0],
        drop_path_rate=config.drop_path,
        pre_norm=clip,
        act_layer=QuickGELU if clip else None,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-5 if clip else 1e-6),
    )


class ImageEncoder(nn.Module):
    """Pixels -> states. Position 0 represents the whole image."""

    unfused_windows: bool = True
    """Whether a CPU attends inside Swin's windows by matrix products and a softmax (`cclm.model.fast_paths`). torch's
    fused attention cannot learn the bias of positions; what it does instead is slower there. Attention across the
    border of a shifted window is then hidden by -inf. Swin's -100 leaves weights of 4e-44, and products with numbers so
    small take up to 60 times as long."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.is_swin = config.architecture == "swin"
        self.trunk = _swin(config) if self.is_swin else _vit(config)

    def forward(self, images: Tensor) -> Sequences:
        """Pixels (N, R, R, 3) uint8, or normalised by `cclm.pixels`, (N, 3, R, R) float -> states (N, 1 + P, H)."""
        if images.dtype == torch.uint8:
            images = normalised(images)
        if self.is_swin and images.device.type == "cpu":
            for module in self.trunk.modules():
                if isinstance(module, WindowAttention):
                    module.fused_attn = not self.unfused_windows
                elif isinstance(module, SwinTransformerBlock) and isinstance(mask := module.attn_mask, Tensor):
                    mask.masked_fill_(mask.ne(0), float("-inf") if self.unfused_windows else -100.0)
        states = self.trunk.forward_features(images)
        if self.is_swin:
            patches = states.flatten(1, 2)  # (N, P, H)
            states = torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)  # (N, 1 + P, H)
        return Sequences.full(states)


def region_states(images: Sequences, image_of_text: Tensor, patches: Tensor) -> Sequences:
    """What each of B texts sees of its image, if the text describes a region.

    Source: arXiv 2206.00621, section 3.2; docs/method.md, section Pre-training objectives.

    Args:
        images: states (N, 1 + P, H) of whole images.
        image_of_text: (B,) int64, the image of each text.
        patches: (B, 1 + P) bool, the patches of each region; position 0 is True.

    Returns:
        States (B, 1 + P, H). Position 0 is the mean over the region's patches; the others are unchanged. Only
        position 0 and the region's patches are visible.
    """
    states = images.data[image_of_text]  # (B, 1 + P, H)
    weights = patches[:, 1:, None].to(states.dtype)  # (B, P, 1)
    mean = (states[:, 1:] * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)  # (B, 1, H)
    return Sequences(torch.cat([mean, states[:, 1:]], dim=1), None, visible=patches)
