"""How a run is, in words: the one screen of `cclm status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cclm.cli.status_reading import RunStatus
from cclm.metrics.phases import FAILED, FINAL

_WIDTH = 12
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_UNITS = ("B", "kB", "MB", "GB", "TB")


def screen(status: RunStatus) -> str:
    """The text of the screen, without an end of line after the last one."""
    if not status.trains:
        return _screen_of_evaluation(status)
    rows = [
        ("run", _run(status)),
        *(("losses" if number == 0 else "", text) for number, text in enumerate(_losses(status.losses))),
        ("learning", _learning(status)),
        ("speed", _speed(status)),
        ("checkpoint", _checkpoint(status)),
        ("save failed", _save_failure(status)),
        ("best model", _best(status)),
        ("evaluated", _evaluated(status)),
        ("evaluation", _evaluation(status)),
        ("", _warning_of_evaluation(status)),
        ("restarts", _restarts(status)),
        ("attempts", _attempts(status)),
        ("broken", _broken(status)),
        ("warning", _warning(status)),
        ("ended by", status.error if status.phase == FAILED else None),
    ]
    return _text(status, rows)


def _screen_of_evaluation(status: RunStatus) -> str:
    """Of a folder into which nothing but `cclm evaluate` has written."""
    evaluation = status.evaluation or {}
    processes = status.processes
    where = "" if processes is None else f"{processes} process{'' if processes == 1 else 'es'} on {status.device}"
    rows = [
        ("evaluation", ", ".join(word for word in (status.task, where) if word)),
        ("model", _model(evaluation)),
        *(("scores" if number == 0 else "", text) for number, text in enumerate(_scores(evaluation))),
        ("restarts", _restarts(status)),
        ("warning", _warning(status)),
        ("ended by", status.error if status.phase == FAILED else None),
    ]
    return _text(status, rows)


def _text(status: RunStatus, rows: Sequence[tuple[str, str | None]]) -> str:
    lines = [_title(status)]
    lines += [f"  {name:<{_WIDTH}}{text}" for name, text in rows if text]
    if status.is_silent and status.silent_seconds is not None:
        lines.append(
            f"no sign of life for {in_words(status.silent_seconds)}: its processes are gone, or its files cannot be "
            "written"
        )
    if status.is_stalled and status.step_age_seconds is not None:
        usual = ""
        if status.interval_seconds is not None:
            usual = f", and the last logging interval took {in_words(status.interval_seconds)}"
        lines.append(
            f"no step for {in_words(status.step_age_seconds)}{usual}: a process hangs, or waits for data or for "
            "another process"
        )
    return "\n".join([*lines, *status.notes])


def in_words(seconds: float) -> str:
    """A time such as `40 s`, `7 min`, `3 h 10 min` or `2 d 4 h`."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min"
    if seconds < _DAY:
        return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"
    return f"{seconds // _DAY:.0f} d {seconds % _DAY // _HOUR:.0f} h"


def in_units(size: float) -> str:
    """A number of bytes with three digits or more, such as `812 B`, `5.31 kB` or `1.24 GB`."""
    power = 0
    while size >= 999.5 and power < len(_UNITS) - 1:
        size, power = size / 1000, power + 1
    digits = 0 if power == 0 or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:,.{digits}f} {_UNITS[power]}"


def _title(status: RunStatus) -> str:
    phase = status.phase.replace("_", " ")
    if status.is_silent and status.silent_seconds is not None and status.phase != "rendezvous":
        phase = f"no sign of life for {in_words(status.silent_seconds)}, last in phase {phase}"
    parts = [f"{status.folder}: {phase}"]
    if not status.trains:
        pass
    elif status.step is not None and status.total_steps:
        share = status.step / status.total_steps
        parts.append(f"step {status.step:,} of {status.total_steps:,} ({share:.0%})")
    elif status.step is not None:
        parts.append(f"step {status.step:,}")
    if status.eta_seconds is not None and not status.is_silent:
        parts.append(f"about {in_words(status.eta_seconds)} left")
    if status.is_stalled and status.step_age_seconds is not None:
        parts.append(f"no step for {in_words(status.step_age_seconds)}")
    if status.phase in FINAL and status.sign_time is not None:
        parts.append(f"{in_words(max(0.0, status.read_time - status.sign_time))} ago")
    return ", ".join(parts)


def _run(status: RunStatus) -> str:
    parts = [word for word in (status.task, status.run) if word]
    if status.processes is not None:
        parts.append(f"{status.processes} process{'' if status.processes == 1 else 'es'} on {status.device}")
    if status.starts is not None:
        parts.append("started once" if status.starts == 1 else f"started {status.starts} times")
    return ", ".join(parts)


def _losses(losses: Mapping[str, float]) -> list[str]:
    """A line for each kind of batch."""
    by_kind: dict[str, list[str]] = {}
    for key, value in losses.items():
        kind, _, name = key.partition("/")
        by_kind.setdefault(kind, []).append(f"{name.removeprefix('loss_')} {value:.3f}")
    width = max((len(kind) for kind in by_kind), default=0) + 1
    return [f"{f'{kind}:':<{width}} {'  '.join(values)}" for kind, values in by_kind.items()]


def _learning(status: RunStatus) -> str:
    parts = [] if status.lr is None else [f"lr {status.lr:.2e}"]
    return ", ".join([*parts, *(f"{name} {value:.4f}" for name, value in status.learnt.items())])


def _speed(status: RunStatus) -> str:
    speeds = {"images/s": status.images_per_second, "texts/s": status.texts_per_second}
    parts = [f"{speed:,.0f} {unit}" for unit, speed in speeds.items() if speed is not None]
    if status.model_flops_per_second is not None:
        share = status.model_flops_utilization
        of_peak = "" if share is None else f" ({share:.1%} of the devices' peak)"
        parts.append(f"{status.model_flops_per_second / 1e12:.3g} TFLOP/s{of_peak}")
    return ", ".join(parts)


def _checkpoint(status: RunStatus) -> str:
    if status.checkpoint is None:
        return "" if _is_unknown(status) else "none yet"
    age = status.checkpoint["age_seconds"]
    when = "" if age is None else f", {in_words(age)} ago"
    return f"step {status.checkpoint['step']:,}, {in_units(status.checkpoint['bytes'])}{when}"


def _is_unknown(status: RunStatus) -> bool:
    """Whether nothing says that anything was trained: an earlier version has only evaluated a model, for example."""
    return status.sign_time is None and status.step is None


def _best(status: RunStatus) -> str | None:
    if status.best is None:
        return None
    return f"step {status.best.get('step')}{_ago(status, status.best)}"


def _save_failure(status: RunStatus) -> str | None:
    failure = status.save_failure
    if failure is None:
        return None
    counts = f"{failure.get('failures_in_a_row')} of {failure.get('allowed')} in a row"
    return f"step {failure.get('step')}, {failure.get('reason')} ({counts}{_ago(status, failure)})"


def _evaluated(status: RunStatus) -> str | None:
    found = status.evaluated
    if found is None:
        return None
    mean = found.get("mean")
    score = "" if mean is None else f": {found.get('metric')} {mean:.2f} %, mean over languages"
    return f"{found.get('split')} after step {found.get('step')}{score}"


def _evaluation(status: RunStatus) -> str | None:
    """Of a training's folder that `cclm evaluate` wrote into, too."""
    found = status.evaluation
    if found is None:
        return None
    state = "no sign of life" if found.get("is_silent") else str(found.get("phase"))
    return "; ".join([f"{state}{_ago(status, found)}, {_model(found)}", *_scores(found)])


def _warning_of_evaluation(status: RunStatus) -> str | None:
    warning = None if status.evaluation is None else status.evaluation.get("warning")
    if not isinstance(warning, dict):
        return None
    return f"warning: {warning.get('text')}{_ago(status, warning)}"


def _model(evaluation: Mapping[str, Any]) -> str:
    step = evaluation.get("step")
    return f"{evaluation.get('weights')}{f', step {step}' if step else ''}"


def _scores(evaluation: Mapping[str, Any]) -> list[str]:
    """The split and metric in one line, and the scores of the rows in the next."""
    found = evaluation.get("evaluated")
    scores = found.get("scores") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(scores, dict):
        return []
    values = {row: value for row, value in scores.items() if isinstance(value, int | float)}
    text = "  ".join(f"{row} {value:.2f}" for row, value in values.items())
    return [f"{found.get('split')}, {found.get('metric')} in percent: {text}"]


def _restarts(status: RunStatus) -> str | None:
    launcher = status.launcher
    counts = launcher.get("restarts") if launcher else None
    if launcher is None or not isinstance(counts, dict):
        return None
    counts = {cause: count for cause, count in counts.items() if isinstance(count, int) and count}
    if not counts:
        return "none"
    causes = ", ".join(f"{cause} {count}" for cause, count in counts.items())
    last = launcher.get("last_restart")
    reason = f"; the last one{_ago(status, last)}: {last.get('reason')}" if isinstance(last, dict) else ""
    return f"{sum(counts.values())} ({causes}){reason}"


def _attempts(status: RunStatus) -> str | None:
    attempts = status.launcher.get("attempts") if status.launcher else None
    limit = status.launcher.get("max_attempts") if status.launcher else None
    step = status.launcher.get("attempts_step") if status.launcher else None
    newest = status.checkpoint["step"] if status.checkpoint else 0
    if not attempts or (isinstance(step, int) and newest > step):
        return None
    return f"{attempts}{f' of {limit}' if limit else ''} in a row without a newer checkpoint"


def _broken(status: RunStatus) -> str:
    if not status.skipped:
        return "" if _is_unknown(status) else "no records"
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in status.skipped.items())
    total = sum(status.skipped.values())
    return f"records skipped {'once' if total == 1 else f'{total:,} times'} ({kinds})"


def _warning(status: RunStatus) -> str | None:
    if status.warning is None:
        return None
    return f"{status.warning.get('text')}{_ago(status, status.warning)}"


def _ago(status: RunStatus, fact: Mapping[str, Any]) -> str:
    """`, 3 min ago`; empty where the time is not known."""
    moment = fact.get("time")
    if isinstance(moment, bool) or not isinstance(moment, int | float):
        return ""
    return f", {in_words(max(0.0, status.read_time - moment))} ago"
