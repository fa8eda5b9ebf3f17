"""What the console and `log.txt` say about each event."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cclm.events import (
    CheckpointSkipped,
    CleanupFailed,
    Evaluated,
    EvaluationStarted,
    Event,
    FileRefused,
    Interval,
    LinesLost,
    NetworkMeasured,
    Notice,
    Saved,
    SavedByOther,
    SaveFailed,
    Selected,
    SettingsChanged,
    Started,
    Stopped,
    UpdatesSkipped,
    Validated,
    Waited,
    Warned,
    WeightsIgnored,
)
from cclm.metrics.tables import score_table

_WAITED_FOR = {"earlier_save": "the save before to end"}


class Sentences:
    """A sink that hands the sentence of each event to a function such as `print`."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def handle(self, event: Event) -> None:
        text = sentence(event)
        if text is not None:
            self._show(text)


def sentence(event: Event) -> str | None:
    """The text of an event, of one line or more; None for an event that the log does not mention."""
    match event:
        case Notice() | Warned():
            return event.text
        case Started():
            return _of_start(event)
        case EvaluationStarted():
            step = f" (step {event.step})" if event.step else ""
            size = f"{event.parameters / 1e6:.1f} M parameters"
            return f"{event.task}: evaluating {event.weights}{step}: {size}, {_where(event.processes, event.device)}"
        case SettingsChanged():
            changes = "; ".join(event.changes)
            return f"going on from step {event.step} with other settings than it was saved with: {changes}"
        case NetworkMeasured():
            over = f"{event.backend}, {event.network}" if event.network else event.backend
            warning = f"; {event.warning}" if event.warning else ""
            return f"network of {event.nodes} nodes: {event.bytes_per_second / 1e9:.2f} GB/s ({over}){warning}"
        case WeightsIgnored():
            return (
                f"{event.setting} {event.path} is not used: the run goes on from {event.checkpoint} "
                "(--resume never begins anew)"
            )
        case Interval():
            return _of_interval(event)
        case Evaluated():
            return f"{_title(event)}\n{score_table(event.scores, event.examples)}"
        case Selected():
            return f"selected step {event.step}: {event.metric} {event.score:.2f} in validation"
        case Saved() | SaveFailed() | SavedByOther() | CleanupFailed() | CheckpointSkipped():
            return _of_checkpoint(event)
        case UpdatesSkipped():
            kinds = ", ".join(f"{kind} {count}" for kind, count in event.kinds.items())
            return (
                f"left out updates whose gradients are not finite: {kinds}, the last one in step {event.step}; "
                f"{event.total} since the start"
            )
        case Waited():
            return f"training waited {event.seconds:.1f} s at step {event.step} for {_WAITED_FOR[event.waited_for]}"
        case Stopped():
            return (
                f"stopped by {event.signal} after step {event.step} of {event.total_steps}; "
                "the same command goes on from there"
            )
        case FileRefused():
            return f"{event.path} takes no more ({event.reason}); its lines wait in memory until it does"
        case LinesLost():
            return f"{event.path} lacks its last {event.lines} lines: it never took them"
    return None


def _of_checkpoint(event: Saved | SaveFailed | SavedByOther | CleanupFailed | CheckpointSkipped) -> str:
    match event:
        case Saved():
            return (
                f"saved step {event.step} to {event.place}: {event.bytes / 1e6:.1f} MB in {event.seconds:.1f} s, "
                f"training held up for {event.held_up_seconds:.2f} s"
            )
        case SaveFailed():
            return (
                f"step {event.step} could not be saved to {event.place} ({event.reason}); "
                f"failure {event.failures_in_a_row} of {event.allowed} in a row"
            )
        case SavedByOther(place=None):
            return f"step {event.step} was saved by another attempt of this run meanwhile"
        case SavedByOther():
            return f"step {event.step} was already saved to {event.place} by another attempt of this run"
        case CleanupFailed():
            what_stays = "what is there stays" if event.is_place else "it stays"
            return f"could not tidy up {event.folder} ({event.reason}); {what_stays}"
        case CheckpointSkipped():
            return f"skipped checkpoint {event.folder}: {event.reason}"


def _of_start(event: Started) -> str:
    """What is about to run, in a few lines."""
    size = f"{event.total_steps} steps, {event.parameters / 1e6:.1f} M parameters"
    where = _where(event.processes, event.device)
    if event.task == "pretrain":
        begin = _begin(event, "starting")
        if event.device == "cpu":
            where += f", {event.threads} threads each"
        counts = ", ".join(f"{count:,} {kind}" for kind, count in event.records.items())
        return f"{begin}: {size}, {where}\nrecords: {counts}\noutput: {' and '.join(event.places)}"
    begin = _begin(event, f"starting from {event.weights}")
    return f"{event.task}: {begin}: {size}, {where}\ntraining examples: {event.details}\noutput: {event.places[0]}"


def _where(processes: int, device: str) -> str:
    return f"{processes} process{'es' if processes > 1 else ''} on {device}"


def _begin(event: Started, anew: str) -> str:
    """How a training begins.

    Args:
        anew: what to say of one that begins with its first step.
    """
    if not event.step:
        return anew
    if event.step >= event.total_steps:
        return f"finished already, after step {event.step}: nothing is left to train (--resume never begins anew)"
    return f"resuming after step {event.step}"


def _of_interval(event: Interval) -> str:
    """One line: step, rates, and the losses of each kind of batch."""
    width = len(str(event.total_steps))
    parts = [f"step {event.step:{width}d}/{event.total_steps}", f"lr {event.lr:.2e}"]
    by_kind: dict[str, list[str]] = {}
    for key, value in event.losses.items():
        kind, _, name = key.partition("/")
        by_kind.setdefault(kind, []).append(f"{name.removeprefix('loss_')} {value:.3f}")
    parts += [f"{kind}: {' '.join(losses)}" for kind, losses in by_kind.items()]
    parts += [f"{name} {value:.4f}" for name, value in event.learnt.items()]
    parts.append(_of_grad_norms(event.grad_norms))
    parts.append(f"{event.images_per_second:.0f} images/s {event.texts_per_second:.0f} texts/s")
    if event.skipped:
        parts.append(f"skipped {sum(event.skipped.values())}")
    return " | ".join(parts)


def _of_grad_norms(norms: Mapping[str, float]) -> str:
    """`grad images 1.23 texts 0.98`; one number where there is one kind of batch."""
    if len(norms) == 1:
        return "".join(f"grad {norm:.2f}" for norm in norms.values())
    return "grad " + " ".join(f"{kind} {norm:.2f}" for kind, norm in norms.items())


def _title(event: Evaluated) -> str:
    """The line above a table of scores."""
    if event.split == "retrieval":
        return f"held-out retrieval{f' after step {event.step}' if event.step else ''}, percent"
    if isinstance(event, Validated):
        best = ", the best so far" if event.is_best else ""
        return f"validation after step {event.step}, percent{best}"
    title = {"test": "test", "translated_test": "translate-test (English translations of the tests)"}[event.split]
    step = f", step {event.step}" if event.step else ""  # published weights do not say theirs
    return f"{title}{step}, percent{f' ({event.protocol})' if event.protocol else ''}"
