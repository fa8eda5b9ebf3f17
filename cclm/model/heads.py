"""Small heads on top of states; docs/method.md, section Model.

Dimension letters: B rows, H width, E width of the shared space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MlpHead(nn.Sequential):
    """Linear(H, 2H), LayerNorm, GELU, Linear(2H, outputs), as published: matching (2), box (4) and class heads."""

    def __init__(self, hidden_size: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(hidden_size, 2 * hidden_size),
            nn.LayerNorm(2 * hidden_size, eps=1e-5),
            nn.GELU(),
            nn.Linear(2 * hidden_size, outputs),
        )


class SharedSpace(nn.Module):
    """The space in which images, and texts of all languages, are compared, with its learnt temperature."""

    def __init__(self, hidden_size: int, embed_dim: int, temperature: float) -> None:
        super().__init__()
        self.image_projection = nn.Linear(hidden_size, embed_dim)
        self.text_projection = nn.Linear(hidden_size, embed_dim)
        self.temperature = nn.Parameter(torch.tensor(temperature))

    def image_features(self, cls_states: Tensor) -> Tensor:
        """States at position 0, (B, H) -> features (B, E) float32 of unit length."""
        return F.normalize(self.image_projection(cls_states).float(), dim=-1)

    def text_features(self, cls_states: Tensor) -> Tensor:
        """States at position 0, (B, H) -> features (B, E) float32 of unit length."""
        return F.normalize(self.text_projection(cls_states).float(), dim=-1)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Clamp the temperature to [0.001, 0.5], as published pre-training does before each use."""
        self.temperature.clamp_(0.001, 0.5)
