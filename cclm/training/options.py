"""What the command line adds to a fine-tuning config."""

from __future__ import annotations

from dataclasses import dataclass

from cclm.data.annotations.annotation_sets import FewShot
from cclm.data.annotations.missing import Policy


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of `cclm finetune` and `cclm evaluate`."""

    checkpoint: str | None = None
    """Weights to start from, or to evaluate."""
    shots: FewShot | None = None
    translated: bool = False
    """Test on the machine-translated files (translate-test)."""
    missing: Policy | None = None
    """What to do about images that are not there; None: what the config's `data.missing_images` says."""
    resume: str = "auto"
    """As in `Saving.find_start`."""
