"""How far a run is, from the metrics that its pods serve, or how far it came, from the last words of one. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

RUN_RESTARTS = "cclm_run_restarts"
"""The metric that only the pod of node 0 has."""


@dataclass(frozen=True)
class Progress:
    """Numbers of a running training; what is not known yet is None or empty."""

    step: int | None = None
    """Outer steps that are done."""
    planned: int | None = None
    """Outer steps of the whole run."""
    losses: Mapping[str, float] | None = None
    """`KIND/loss_NAME` to its mean over the last interval."""
    eta_seconds: float | None = None
    phase: str | None = None
    """What the pod does: preparing, training, evaluating, saving, and the like."""
    restarts: Mapping[str, int] | None = None
    """Cause to how often the pod's launcher has started its processes again, in the same pod."""
    run_restarts: Mapping[str, int] | None = None
    """Cause to how often processes were started again since the run began, in any pod. The launcher of node 0 keeps
    that beside the checkpoints, so it outlives pods and events. None: the pod does not know."""

    def __str__(self) -> str:
        """One line for people; empty if nothing is known."""
        words = []
        if self.step is not None:
            share = f" of {self.planned} ({self.step / self.planned:.0%})" if self.planned else ""
            words.append(f"step {self.step}{share}")
        words += [f"loss {name} {value:.4g}" for name, value in sorted((self.losses or {}).items())]
        if self.eta_seconds is not None:
            words.append(f"{timedelta(seconds=round(self.eta_seconds))} left")
        if self.phase is not None and (self.phase != "training" or not words):
            words.append(self.phase.replace("_", " "))
        return ", ".join(words)


def read_progress(text: str) -> Progress | None:
    """What metrics of a pod tell about its run; None if nothing.

    Args:
        text: what the pod serves at `/metrics`, in Prometheus' text format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    numbers: dict[str, float] = {}
    losses: dict[str, float] = {}
    restarts: dict[str, int] = {}
    run_restarts: dict[str, int] = {}
    phase = None
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "cclm_loss":
                    losses[f"{sample.labels.get('kind', '')}/{sample.labels.get('loss', '')}"] = sample.value
                elif sample.name == "cclm_restarts_total" and sample.value > 0:
                    restarts[sample.labels.get("cause", "")] = int(sample.value)
                elif sample.name == RUN_RESTARTS:
                    run_restarts[sample.labels.get("cause", "")] = int(sample.value)
                elif sample.name == "cclm_phase" and sample.value == 1:
                    phase = sample.labels.get("phase")
                elif not sample.labels:
                    numbers[sample.name] = sample.value
    except ValueError:  # an answer that is no metrics, such as the page of another server at this port
        return None
    if not numbers and not losses and phase is None:
        return None
    step, planned = numbers.get("cclm_train_step"), numbers.get("cclm_train_steps_planned")
    return Progress(
        int(step) if step is not None else None,
        int(planned) if planned is not None else None,
        losses,
        numbers.get("cclm_eta_seconds"),
        phase,
        restarts,
        {cause: times for cause, times in run_restarts.items() if times} if run_restarts else None,
    )


def facts_of(message: str) -> dict[str, Any]:
    """The line of JSON with which `cclm launch` ends a container's termination message; empty if there is none."""
    try:
        facts = json.loads(message.rstrip().rpartition("\n")[2])
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) and "exit_code" in facts else {}


def last_progress(message: str) -> Progress | None:
    """How far a run came, as the termination message of its container tells; None if it does not."""
    facts = facts_of(message)
    found, restarts = facts.get("progress"), facts.get("restarts")
    if not isinstance(found, dict) or "step" not in found:
        return None
    losses = {name: float(value) for name, value in found.items() if "/" in name}
    return Progress(
        int(found["step"]),
        int(found["planned"]) if "planned" in found else None,
        losses,
        run_restarts=restarts if isinstance(restarts, dict) else None,
    )
