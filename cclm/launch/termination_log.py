"""How a launch ends, in the file from which Kubernetes takes the last words of a container. No torch.

`kubectl describe pod` shows them. The training operator puts them into its event about a failed pod, which stays when
the pod is gone.
"""

from __future__ import annotations

import json
import os
from typing import Any

from cclm.events import Ended, Event

_PATH = "/dev/termination-log"
"""terminationMessagePath of a container, unless its pod says otherwise. The kubelet makes the file."""
PATH_VARIABLE = "TERMINATION_LOG"
"""Environment variable that names another file."""
_MAX_BYTES = 4096
"""The kubelet keeps no more of it."""


class TerminationLog:
    """A sink that writes the end: the sentence, and below it a line of JSON for programs.

    That has exit code and cause, how far training came, and the restarts of the run by cause. Where there is no such
    file, outside of pods, it writes nothing. After success there is no sentence, and nothing at all where the node does
    not know how far training came.
    """

    def handle(self, event: Event) -> None:
        if not isinstance(event, Ended) or (event.cause is None and not event.progress):
            return
        path = os.environ.get(PATH_VARIABLE, _PATH)
        if not os.path.isfile(path):
            return
        try:
            with open(path, "wb") as file:
                file.write(last_words(event))
        except OSError:
            return  # the exit code and the log say it, too


def last_words(end: Ended) -> bytes:
    """The sentence, cut where it is too long, and the line of JSON."""
    cause = None if end.cause is None else end.cause.lower()
    facts: dict[str, Any] = {"exit_code": end.exit_code, "cause": cause, "may_retry": end.may_retry}
    if end.progress:
        facts["progress"] = dict(end.progress)
    if end.restarts:
        facts["restarts"] = dict(end.restarts)
    below = f"\n{json.dumps(facts)}\n".encode()
    sentence = " ".join(end.reason.split()).encode()
    room = _MAX_BYTES - len(below)
    if len(sentence) > room:
        sentence = sentence[: room - 3].decode(errors="ignore").encode() + b"..."
    return sentence + below
