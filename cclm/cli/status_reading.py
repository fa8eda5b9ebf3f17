"""What a run's folder says about how the run is: everything that `cclm status` shows, from files alone."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cclm import storage
from cclm.checkpoints.commit import whole_manifest
from cclm.checkpoints.manifest import MANIFEST, Manifest, TornCheckpointError, folder_name, step_of_folder
from cclm.checkpoints.retention import checkpoint_steps
from cclm.errors import UserError
from cclm.launch import launch_file
from cclm.metrics.metrics_file import METRICS
from cclm.metrics.metrics_lines import MetricsLines, read_lines
from cclm.metrics.phases import ENDED, FAILED, FINAL, STOPPED
from cclm.metrics.status_file import EVALUATION, SIGN_OF_LIFE, STATUS

NO_SIGN_AFTER = 6 * SIGN_OF_LIFE
"""Seconds without a sign of life after which that is said. A store gets a new copy once a minute."""
OVER_AFTER = 600.0
"""Seconds after which a run that was stopped, has failed, or gives no sign of life is not expected to go on.

A scheduler that starts it again has done so by then."""
SHORTEST_STALL, FIRST_STEP_WITHIN = 60.0, 600.0
"""Seconds without a step after which `cclm status` says so: the least, and those before the first interval ends."""
_LATE = 3
"""Otherwise it says so after this many times the length of the last interval, which has a step or more."""
UNKNOWN = "unknown"
"""The phase of a run that left nothing which says it."""

_TAIL = 1 << 18
"""Bytes of the end of metrics.jsonl that are read."""
_SPEEDS = ("images_per_second", "texts_per_second", "model_flops_per_second", "model_flops_utilization")
_ATTEMPTS = "attempts-"
_EVALUATE = "evaluate"
"""The command that trains nothing, in the names of the launcher's files."""
_STOPS = ("preempted", "interrupted", "peer_stopped")
"""Causes by which somebody stopped a run: names of `cclm.launch.causes.Cause`."""


@dataclass
class RunStatus:
    """How a run is. What its folder does not say is None or empty."""

    folder: str
    read_time: float
    """Unix time at which the folder was read."""
    phase: str = UNKNOWN
    """As in `status.json`, or `rendezvous`, which the launcher says."""
    sign_time: float | None = None
    """Unix time of the last sign of life."""
    silent_seconds: float | None = None
    """Time since the last sign of life; None where there is none, and after the end."""
    is_silent: bool = False
    """Whether there should have been a sign of life since."""
    is_over: bool = False
    """Whether the run has ended, or nothing is heard of it for so long that it will hardly go on by itself."""
    trains: bool = True
    """Whether the folder is that of a training; False: nothing but `cclm evaluate` has written into it."""
    task: str | None = None
    run: str | None = None
    """The name by which the run knows its own checkpoints."""
    processes: int | None = None
    device: str | None = None
    starts: int | None = None
    """Times that training began or went on."""
    step: int | None = None
    """Outer steps done."""
    total_steps: int | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    """By "kind/name"; means of the last logging interval."""
    lr: float | None = None
    learnt: Mapping[str, float] = field(default_factory=dict)
    images_per_second: float | None = None
    texts_per_second: float | None = None
    model_flops_per_second: float | None = None
    model_flops_utilization: float | None = None
    eta_seconds: float | None = None
    """Time that the steps left take, from now on; None unless the run trains, and where they have taken longer."""
    interval_seconds: float | None = None
    """Length of the last logging interval."""
    step_age_seconds: float | None = None
    """Time since the last step, or since the run last began to train; None unless it trains."""
    is_stalled: bool = False
    """Whether there should have been a step since. The process is alive, but it hangs or waits."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """How often the run has skipped a broken record so far, by kind; one counts again in each epoch."""
    checkpoint: dict[str, Any] | None = None
    """The newest whole one: `step`, `bytes`, `time` and `age_seconds` (None where nothing says it)."""
    save_failure: dict[str, Any] | None = None
    """The last failed save, if none succeeded since."""
    best: dict[str, Any] | None = None
    """The last best model that was saved: `step`, `bytes`, `time`. No run goes on from it."""
    evaluated: dict[str, Any] | None = None
    """The last evaluation of the training: `split`, `step`, `metric` and `mean`, in percent."""
    evaluation: dict[str, Any] | None = None
    """The last `cclm evaluate` into this folder: contents of evaluation.json, and `is_silent`."""
    warning: dict[str, Any] | None = None
    """The last one: `text` and `time`."""
    error: str | None = None
    """The exception that ended it."""
    launcher: dict[str, Any] | None = None
    """Contents of launch-COMMAND.json, or `attempts` and `attempts_step` alone."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what does not fit together."""


def read_status(folder: str) -> RunStatus:
    """Read how the run in a folder is.

    Args:
        folder: `output_dir` or `output_hdfs` of a run, as a path or URL.

    Raises:
        UserError: there is no run.
        StoreUnavailable: the store does not answer.
    """
    names = _names(folder)
    if not any(map(_is_of_run, names)):
        raise UserError(
            f"{folder} is not a run's folder: it has no {STATUS}, no {METRICS} and no checkpoint; name the output_dir "
            "or output_hdfs of a run"
        )
    status = RunStatus(folder, read_time=time.time())
    written = _json_of(status, STATUS) if STATUS in names else {}
    evaluation = _json_of(status, EVALUATION) if EVALUATION in names else {}
    lines = _last_lines(folder) if METRICS in names else MetricsLines()
    is_of_training = STATUS in names or bool(lines.intervals) or any(step_of_folder(name) is not None for name in names)
    status.trains = is_of_training or not evaluation
    _take_launcher(status, names)
    _take_written(status, written if status.trains else evaluation)
    if status.trains:
        _take_lines(status, lines)
        _take_checkpoint(status, folder, written)
    if evaluation:
        _take_evaluation(status, evaluation)
    _decide_phase(status)
    _catch_up(status)
    if status.trains and (status.phase, status.step, status.evaluated) == (UNKNOWN, None, None):
        status.notes.append(
            f"nothing here says how the run is: no {STATUS} that can be read, no line in {METRICS} and no checkpoint"
        )
    return status


def _names(folder: str) -> list[str]:
    try:
        entries = storage.list_entries(folder)
    except FileNotFoundError:
        raise UserError(f"there is no folder {folder}; name the output_dir or output_hdfs of a run") from None
    except NotADirectoryError:
        raise UserError(f"{folder} is a file; name the folder of a run, its output_dir or output_hdfs") from None
    return [entry.name for entry in entries]


def _is_of_run(name: str) -> bool:
    is_of_launcher = name.startswith((launch_file.PREFIX, _ATTEMPTS)) and name.endswith(".json")
    return name in (STATUS, EVALUATION, METRICS) or is_of_launcher or step_of_folder(name) is not None


def _json_of(status: RunStatus, name: str) -> dict[str, Any]:
    """A JSON object; empty where it is gone, being replaced, or something else, which is then said."""
    try:
        found = json.loads(storage.read_bytes(storage.join(status.folder, name)))
    except (FileNotFoundError, storage.ShortReadError):
        return {}
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    status.notes.append(f"{name} is cut or damaged: it holds no JSON object; left out")
    return {}


def _last_lines(folder: str) -> MetricsLines:
    """The end of metrics.jsonl, from the beginning of a line on."""
    url = storage.join(folder, METRICS)
    try:
        size = storage.size(url)
        data = storage.read_range(url, max(0, size - _TAIL), size)
        return read_lines(data.partition(b"\n")[2] if size > _TAIL else data)
    except (FileNotFoundError, storage.ShortReadError):  # it is being made shorter
        return MetricsLines()


def _take_launcher(status: RunStatus, names: list[str]) -> None:
    """The file of the launcher that wrote last; the count of attempts where there is none.

    What the launcher of an evaluation says does not count for a training in the same folder.
    """
    if status.trains:
        names = [name for name in names if name != launch_file.launch_file_name(_EVALUATE)]
    files = [_json_of(status, name) for name in names if name.startswith(launch_file.PREFIX)]
    files = [file for file in files if _number(file.get("time")) is not None]
    if files:
        status.launcher = max(files, key=lambda file: float(file["time"]))
        return
    counts = [_json_of(status, name) for name in names if name.startswith(_ATTEMPTS)]
    counts = [count for count in counts if isinstance(count.get("attempts"), int)]
    if counts:
        most = max(counts, key=lambda count: int(count["attempts"]))
        status.launcher = {"attempts": most["attempts"], "attempts_step": most.get("step")}


def _take_written(status: RunStatus, written: Mapping[str, Any]) -> None:
    """What status.json says. Values of another type than ours are as good as absent."""
    for name in ("phase", "task", "run", "device", "error"):
        if isinstance(written.get(name), str):
            setattr(status, name, written[name])
    for name in ("processes", "starts", "step", "total_steps"):
        if isinstance(written.get(name), int):
            setattr(status, name, written[name])
    for name in ("lr", *_SPEEDS):
        setattr(status, name, _number(written.get(name)))
    for name in ("losses", "learnt", "skipped"):
        values = written.get(name)
        if isinstance(values, dict):
            # A loss that is not a number is what somebody looks for who sees a run diverge.
            kept = {key: each for key, each in values.items() if isinstance(each, float) or _number(each) is not None}
            setattr(status, name, kept)
    for name in ("save_failure", "best", "evaluated", "warning"):
        if isinstance(written.get(name), dict):
            setattr(status, name, written[name])
    status.sign_time = _number(written.get("time"))
    eta, since = _number(written.get("eta_seconds")), _number(written.get("interval_time"))
    if eta is not None and since is not None:
        left = eta - (status.read_time - since)
        status.eta_seconds = left if left > 0 else None
    _take_last_step(status, written)


def _take_last_step(status: RunStatus, written: Mapping[str, Any]) -> None:
    """When the last step was, and whether another one should have followed before the last sign of life.

    The time of that sign counts, and not the present: the copy in a store is older.
    """
    status.interval_seconds = _number(written.get("interval_seconds"))
    times = [time for name in ("step_time", "phase_time") if (time := _number(written.get(name))) is not None]
    if not times or status.sign_time is None:
        return
    status.step_age_seconds = max(0.0, status.read_time - max(times))
    expected = FIRST_STEP_WITHIN
    if status.interval_seconds is not None:
        expected = max(SHORTEST_STALL, _LATE * status.interval_seconds)
    status.is_stalled = status.sign_time - max(times) > expected


def _take_lines(status: RunStatus, lines: MetricsLines) -> None:
    """What metrics.jsonl says: scores, and the last interval where status.json has none."""
    unreadable = lines.unreadable_note(METRICS)
    if unreadable is not None:
        status.notes.append(unreadable)
    if lines.steps_back:
        back = lines.steps_back[-1]
        status.notes.append(
            f"two runs wrote to {METRICS}: step {back.step} follows step {back.last}; give each a folder of its own"
        )
    if lines.scores:
        score = lines.scores[-1]
        earlier = {} if status.evaluated is None else status.evaluated
        is_same = (earlier.get("split"), earlier.get("step")) == (score.split, score.step)
        status.evaluated = {
            "split": score.split,
            "step": score.step,
            "metric": score.metric,
            "mean": _number(score.value()),
            "time": earlier.get("time") if is_same else None,
        }
    if not lines.intervals:
        return
    last = lines.intervals[-1]
    if status.step is None:
        status.step = last.step
    if not status.losses:
        status.losses, status.learnt = last.losses, last.learnt
        status.lr = _number(last.lr)
        for name in _SPEEDS:
            setattr(status, name, _number(getattr(last, name)))
        status.skipped = {kind: int(count) for kind, count in last.skipped.items()}


def _take_checkpoint(status: RunStatus, folder: str, written: Mapping[str, Any]) -> None:
    manifest = _newest(folder)
    if manifest is None:
        return
    saved = written.get("checkpoint")
    is_known = isinstance(saved, dict) and saved.get("step") == manifest.step
    when = _number(saved.get("time")) if isinstance(saved, dict) and is_known else _time_of(folder, manifest.step)
    status.checkpoint = {
        "step": manifest.step,
        "bytes": sum(file.size for file in manifest.files.values()),
        "time": when,
        "age_seconds": None if when is None else max(0.0, status.read_time - when),
    }
    if status.run and status.run != manifest.run:
        status.notes.append(
            f"two runs are in this folder: {STATUS} is of run {status.run}, and the newest checkpoint (step "
            f"{manifest.step}) of run {manifest.run}; give each a folder of its own"
        )
    status.run = status.run or manifest.run
    if status.step is None:
        status.step = manifest.step


def _take_evaluation(status: RunStatus, evaluation: dict[str, Any]) -> None:
    sign = _number(evaluation.get("time"))
    silent_seconds = 0.0 if sign is None else status.read_time - sign
    is_silent = evaluation.get("phase") not in FINAL and silent_seconds > NO_SIGN_AFTER
    status.evaluation = {**evaluation, "is_silent": is_silent}


def _newest(folder: str) -> Manifest | None:
    """The manifest of the newest whole checkpoint; contents are not read."""
    for step in checkpoint_steps(folder):
        try:
            return whole_manifest(storage.join(folder, folder_name(step)))
        except TornCheckpointError:  # not whole yet, or being deleted
            continue
    return None


def _time_of(folder: str, step: int) -> float | None:
    """When a checkpoint was whole, by its manifest's time of change; None in a store, which does not tell it."""
    manifest = storage.join(folder, folder_name(step), MANIFEST)
    if not storage.is_local(manifest):
        return None
    try:
        return os.stat(storage.local_path(manifest)).st_mtime
    except OSError:
        return None


def _decide_phase(status: RunStatus) -> None:
    """The phase, and whether there should have been a sign of life since the last one.

    What the launcher says counts where it has said it after the last sign of life of training.
    """
    launcher, sign = status.launcher or {}, status.sign_time
    launcher_time = _number(launcher.get("time"))
    if launcher_time is not None and (sign is None or launcher_time > sign):
        _take_launchers_phase(status, launcher)
        if status.phase == "rendezvous" or (status.phase == "preparing" and sign is not None):
            sign = launcher_time
    since = 0.0 if sign is None else max(0.0, status.read_time - sign)
    if status.phase not in FINAL and sign is not None:
        status.silent_seconds = since
        status.is_silent = since > NO_SIGN_AFTER
    if status.phase != "training" or status.is_silent:
        status.eta_seconds, status.step_age_seconds, status.is_stalled = None, None, False
    if status.is_stalled:
        status.eta_seconds = None
    is_still = status.phase in FINAL or (status.is_silent and status.phase != "rendezvous")
    status.is_over = status.phase == ENDED or (is_still and since > OVER_AFTER)


def _catch_up(status: RunStatus) -> None:
    """Count steps up to the newest checkpoint, where the processes were lost before they wrote that it was saved."""
    is_lost = status.is_silent or status.phase == FAILED
    if is_lost and status.checkpoint is not None and status.step is not None:
        status.step = max(status.step, status.checkpoint["step"])


def _take_launchers_phase(status: RunStatus, launcher: Mapping[str, Any]) -> None:
    end = launcher.get("end")
    if isinstance(end, dict):
        if status.phase not in FINAL:  # the processes were killed, or left before they trained
            if end.get("exit_code") == 0:
                status.phase = ENDED
            elif end.get("cause") in _STOPS:
                status.phase = STOPPED
            else:
                status.phase, status.error = FAILED, str(end.get("reason"))
    elif launcher.get("phase") == "rendezvous":
        status.phase = "rendezvous"
    else:  # the launcher writes when it starts the processes, and these have not written since
        status.phase, status.error = "preparing", None


def _number(value: object) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
