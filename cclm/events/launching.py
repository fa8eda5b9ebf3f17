"""What happens around the processes of a training: nodes meet, processes start again, and a run ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cclm.events.journal import Event


@dataclass(frozen=True)
class WaitingForNodes(Event):
    """This node waits until enough nodes have met; then all of them start their processes."""

    min_nodes: int
    """The fewest nodes that the run goes on with."""
    max_nodes: int
    """The most nodes that it uses."""


@dataclass(frozen=True)
class NodesMet(Event):
    """The nodes have agreed on who takes part, and start their processes."""

    nodes: int
    """Nodes that take part."""
    min_nodes: int
    max_nodes: int
    node_rank: int
    """Rank of this node, from 0."""
    processes: int
    """Processes of all nodes together."""
    seconds: float
    """How long this node waited for the others."""


@dataclass(frozen=True)
class AttemptsCounted(Event):
    """The count of starts has changed. Only the launcher of node 0 counts."""

    attempts: int
    """Starts in a row without a newer checkpoint."""
    max_attempts: int
    """Highest number of starts allowed."""
    step: int | None = None
    """Step of the newest checkpoint when the last of them began; None where that is not known."""


@dataclass(frozen=True)
class RestartsCounted(Event):
    """The restarts of the whole run, over all launches, were written down. Only the launcher of node 0 counts."""

    restarts: Mapping[str, int]
    """Cause in lower case to number; those that have not happened are missing."""


@dataclass(frozen=True)
class Restarted(Event):
    """The launcher starts the processes of its node again after a failure, which uses up a restart."""

    cause: str
    """A name of `cclm.launch.causes.Cause`."""
    reason: str
    """What happened, in one line."""
    restarts_left: int
    """After this one."""
    max_restarts: int


@dataclass(frozen=True)
class NodeLeft(Event):
    """Another node was taken away. The nodes that are left start again without it, which uses up no restart."""

    cause: str
    """A name of `cclm.launch.causes.Cause`."""
    reason: str
    """What happened, in one line."""
    restarts_left: int


@dataclass(frozen=True)
class RoundBroken(Event):
    """Another node was lost, or its processes have failed. All nodes stop and meet again, which uses up no restart."""

    cause: str
    """A name of `cclm.launch.causes.Cause`."""
    reason: str
    """What happened, in one line."""
    restarts_left: int


@dataclass(frozen=True)
class NodeJoining(Event):
    """Another node wants to join. The processes save and start again together with it, which uses up no restart."""

    nodes: int
    """Nodes that take part so far."""
    restarts_left: int


@dataclass(frozen=True)
class Rejoining(Event):
    """The other nodes took this one for dead. It starts again together with them, which uses up no restart."""

    restarts_left: int


@dataclass(frozen=True)
class Ended(Event):
    """This node's part of the run is over."""

    exit_code: int
    cause: str | None
    """A name of `cclm.launch.causes.Cause`; None after success."""
    reason: str
    """What happened, in one line; empty after success."""
    may_retry: bool
    """Whether the same command may succeed, or get further, when it is given again; False after success."""
    traceback: str = ""
    """Traceback of a bug in a training process, as Python prints it."""
    progress: Mapping[str, float] = field(default_factory=dict)
    """How far the run came, by the names of `cclm.launch.metrics_sink.last_progress`; empty where nobody knows."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """Those of the whole run, as `RestartsCounted` has them; empty on nodes that do not count them."""


@dataclass(frozen=True)
class PreflightChecked(Event):
    """The launcher has made one check before the processes start."""

    check: str
    """Its name, such as `gpus`. There are few, so they can be counted."""
    problem: str | None
    """What is wrong, in one sentence; None if nothing is."""
    found: str
    """What is worth telling in the log; mostly empty."""
    seconds: float
    """How long it took."""
