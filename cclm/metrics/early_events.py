"""What happened before the run had a folder, for its log. The console has it already."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from cclm.events import Event, Notice, Warned
from cclm.launch_contract import METRICS_NOTICE, METRICS_WARNING


def take_early_events(environment: MutableMapping[str, str] = os.environ) -> list[Event]:
    """Events about the endpoint of this pod, once, in the first process of the pod."""
    if environment.get("LOCAL_RANK", "0") != "0":
        return []
    events: list[Event] = []
    if text := environment.pop(METRICS_NOTICE, ""):
        events.append(Notice(text))
    if text := environment.pop(METRICS_WARNING, ""):
        events.append(Warned(text))
    return events
