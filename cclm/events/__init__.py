"""What happens in a run, as typed events.

Code that does something emits an event. Sinks decide what becomes of it: a line on the console and in `log.txt`, a line
of `metrics.jsonl`, a metric of Prometheus. So each sentence is written in one place only, and whatever is reported can
be counted. Nothing but the standard library is imported here, since the launcher, which must not import torch, emits
events too.
"""

from cclm.events.journal import (
    Event,
    Journal,
    Notice,
    RecordSkipped,
    Sink,
    Warned,
)
from cclm.events.launching import (
    AttemptsCounted,
    Ended,
    NodeJoining,
    NodeLeft,
    NodesMet,
    PreflightChecked,
    Rejoining,
    Restarted,
    RoundBroken,
    WaitingForNodes,
)
from cclm.events.training import (
    CheckpointSkipped,
    CleanupFailed,
    Evaluated,
    FileRefused,
    Interval,
    LinesLost,
    NetworkMeasured,
    PhaseChanged,
    Saved,
    SavedByOther,
    SaveFailed,
    Selected,
    SettingsChanged,
    Started,
    StepDone,
    Stopped,
    Validated,
    Waited,
    WeightsIgnored,
    Worked,
)

__all__ = [
    "AttemptsCounted",
    "CheckpointSkipped",
    "CleanupFailed",
    "Ended",
    "Evaluated",
    "Event",
    "FileRefused",
    "Interval",
    "Journal",
    "LinesLost",
    "NetworkMeasured",
    "NodeJoining",
    "NodeLeft",
    "NodesMet",
    "Notice",
    "PhaseChanged",
    "PreflightChecked",
    "RecordSkipped",
    "Rejoining",
    "Restarted",
    "RoundBroken",
    "SaveFailed",
    "Saved",
    "SavedByOther",
    "Selected",
    "SettingsChanged",
    "Sink",
    "Started",
    "StepDone",
    "Stopped",
    "Validated",
    "Waited",
    "WaitingForNodes",
    "Warned",
    "WeightsIgnored",
    "Worked",
]
