"""Names of phases that several modules ask for. The catalogue lists those of the metric."""

from __future__ import annotations

SAVING = "saving"
WAITING = "waiting_for_store"
ENDED, STOPPED, FAILED = "ended", "stopped", "failed"
FINAL = (ENDED, STOPPED, FAILED)
"""After these nothing is done any more, and no sign of life is expected. The last two are in `status.json` alone."""
