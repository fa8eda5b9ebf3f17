"""Settings of how a step is computed. What is computed stays the same, but for rounding and the draws of dropout.

docs/speed.md, section Training steps, says what each one brings.
"""

from __future__ import annotations

from pydantic import Field

from cclm.config.base import Settings


class ComputeConfig(Settings):
    """Ways to compute a training step with less work. Each can be turned off, to compare or to look for a fault."""

    packed_texts: bool = True
    """Whether texts are computed without their padding. Only on a CPU; on a GPU they are padded to the longest."""
    unpadded_attention: bool = True
    """Whether attention over packed texts is computed without padding, too."""
    unfused_windows: bool = True
    """Whether a CPU attends inside Swin's windows by matrix products and a softmax, not by torch's fused attention."""
    read_positions: bool = True
    """Whether the last fusion layer computes only the positions that a loss reads; needs `packed_texts`."""
    shared_views: bool = True
    """Whether keys and values of an image are computed once for all its texts."""
    shared_self_attention: bool = True
    """Whether the first fusion layer's self-attention is computed once for all copies of a text; needs `packed_texts`.
    The copies of a text then also share what that sub-layer drops."""
    one_text_pass: bool = True
    """Whether all texts of a step go through the text encoder together."""
    fused_cross_entropy: bool = True
    """Whether the loss of masked tokens is computed a few tokens at a time, so that their logits are never in memory
    as a whole."""
    cheap_dropout: bool = True
    """Whether dropout on a CPU draws 16 bits an element instead of a number."""
    recompute_layers: bool = False
    """Whether layers keep only their input for the backward pass, and are computed again there (activation
    checkpointing): a third more work for a fraction of the memory, so that larger models or batches fit."""
    accumulate: int = Field(1, ge=1)
    """Gradient accumulation: parts into which a process cuts its batch, with the memory of one part. The
    losses stay those of the whole batch, contrast and hard negatives included. With more than one part, all is computed
    a second time in the backward pass: a third more work."""
