"""Curves for TensorBoard (`--tensorboard`): the numbers of `metrics.jsonl` as event files in `OUTPUT/tensorboard`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cclm.errors import UserError
from cclm.events import Evaluated, Event, Interval, Journal, Notice
from cclm.metrics.tables import mean_rows

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
"""Folder of event files, in a run's folder."""
EVALUATION_FOLDER = f"{FOLDER}/evaluation"
"""The same for standalone evaluations, which TensorBoard shows as a run of its own.

TensorBoard reads only the newest file of a folder. In the same folder, an evaluation would hide what a training writes
after it."""


_NOT_INSTALLED = (
    "--tensorboard (the setting tensorboard) needs the package tensorboard: pip install 'cclm[tensorboard]'"
)


def check_installed() -> None:
    """Find out whether curves can be written, before a model is built.

    Raises:
        UserError: the package tensorboard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise UserError(_NOT_INSTALLED)


class TensorBoard:
    """A sink that writes event files. A disk that takes no more ends the curves with one notice, not the run.

    Args:
        folder: of the event files; created.
        step: outer steps done before; curves of later steps, which a run that was cut off left, are not shown any more.
            None: all that is there stays.

    Raises:
        UserError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int | None, journal: Journal) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(_NOT_INSTALLED) from None
        self._journal = journal
        self._writer: SummaryWriter | None = None
        try:
            self._writer = SummaryWriter(str(folder), purge_step=None if step is None else step + 1)
        except OSError as error:
            self._give_up(error)

    def handle(self, event: Event) -> None:
        match event:
            case Interval():
                self._add(event.step, _scalars(event))
            case Evaluated():
                scores = {
                    f"{event.split}/{row.replace(' ', '_')}/{metric}": percent
                    for row, metrics in {**event.scores, **mean_rows(event.scores)}.items()
                    for metric, percent in metrics.items()
                }
                self._add(event.step, scores)

    def close(self) -> None:
        """Write what is left."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                self._give_up(error)

    def _add(self, step: int, scalars: dict[str, float]) -> None:
        if self._writer is None:
            return
        try:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        self._journal.emit(Notice(f"TensorBoard's files take no more ({error.strerror or error}); no curves follow"))


def _scalars(event: Interval) -> dict[str, float]:
    """An interval by the names under which TensorBoard groups its charts."""
    losses = {f"loss/{key.replace('/loss_', '/')}": value for key, value in event.losses.items()}
    norms = {f"grad_norm/{kind}": norm for kind, norm in event.grad_norms.items()}
    learnt = {f"learnt/{name}": value for name, value in event.learnt.items()}
    speed = {
        "throughput/images_per_second": event.images_per_second,
        "throughput/texts_per_second": event.texts_per_second,
    }
    if event.model_flops_per_second is not None:
        speed["throughput/model_flops_per_second"] = event.model_flops_per_second
    if event.model_flops_utilization is not None:
        speed["throughput/model_flops_utilization"] = event.model_flops_utilization
    return {**losses, **norms, **learnt, **speed, "lr": event.lr, "skipped_records": float(sum(event.skipped.values()))}
