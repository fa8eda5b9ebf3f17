"""The labels of all metrics, and the values that they can take.

`python -m cclm.metrics.labels` prints the table of `docs/metrics.md`. Values are written down here, and not imported
from the code that has them, so that reading the table needs neither torch nor the launcher. A test compares all lists
with the code, apart from that of `device`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cclm.metrics.catalogue import (
    BROKEN_REASONS,
    DEVICE_MEMORY,
    NODES,
    PHASES,
    STORAGE_DIRECTIONS,
    STORAGE_OUTCOMES,
    TOKENS,
    Metric,
)


@dataclass(frozen=True)
class Label:
    """A label of metrics, and the values that it can take."""

    name: str
    values: tuple[str, ...] = ()
    """All of them; empty where they are not known beforehand."""
    note: str = ""
    """What values without a list are, or what else there is to know."""
    metric: Metric | None = None
    """The one that the values belong to, where a label means something else in each metric."""


_KINDS = ("images", "regions", "images_mono", "texts", "examples")
_TASKS = ("pretrain", "retrieval", "classification", "answering", "reasoning", "text_assignment")
_RECALLS = tuple(f"{side}_{recall}" for side in ("txt", "img") for recall in ("r1", "r5", "r10", "r_mean"))
_CAUSES = (
    "bug",
    "user_error",
    "attempts_exhausted",
    "interrupted",
    "collective_timeout",
    "killed",
    "crashed",
    "preempted",
    "lost_peer",
    "storage_outage",
    "peer_stopped",
    "hardware",
    "membership",
)
_CHECKS = ("gpus", "efa", "enough_gpus", "output_dir", "output_hdfs", "inputs", "shared_memory")
LABELS: tuple[Label, ...] = (
    Label("phase", PHASES),
    Label("kind", _KINDS, "`examples` is fine-tuning, `images` also text assignment, the others are pre-training"),
    Label("loss", ("itc", "ttc", "itm", "ttm", "mlm", "bbox", "giou", "ta", "loss")),
    Label("task", _TASKS),
    Label("split", ("retrieval", "validation", "test", "translated_test"), "`retrieval` is pre-training's"),
    Label("language", note="those of the config's evaluation, validation and test files"),
    Label("metric", ("accuracy", *_RECALLS, "r_mean"), "[recalls](#metricsjsonl) are those of retrieval"),
    Label("part", ("data", "compute", "optimizer", "between", "communication"), "`communication` with gloo alone"),
    Label("state", ("real", "computed"), metric=TOKENS),
    Label("state", ("allocated", "reserved", "peak"), "on GPUs alone", metric=DEVICE_MEMORY),
    Label("state", ("wanted_at_least", "wanted_at_most", "present"), metric=NODES),
    Label("source", _KINDS, "a source is named as its kind of batch"),
    Label("reason", BROKEN_REASONS),
    Label("store", ("hdfs", "s3", "gs", "other")),
    Label("outcome", STORAGE_OUTCOMES),
    Label("direction", STORAGE_DIRECTIONS),
    Label(
        "cause",
        _CAUSES,
        "[exit codes](runs-that-survive.md#several-processes-and-machines); `membership`: a node came, or came back; "
        "`cclm_run_restarts` also has `unknown`: the launcher itself was killed",
    ),
    Label("check", _CHECKS, "those of the [preflight](runs-that-survive.md#preflight)"),
    Label("backend", ("nccl", "gloo")),
    Label("network", note="as NCCL calls it: `Socket`, `IB`, `AWS Libfabric`"),
    Label("device", ("cuda", "cpu")),
    Label("parameters", note="their number"),
    Label("version", note="of cclm"),
    Label("torch", note="its version"),
    Label("python", note="its version"),
)
"""Labels of all metrics."""


def table() -> str:
    """The table of the labels' values in `docs/metrics.md`, in Markdown."""
    lines = ["| label | values |", "| --- | --- |"]
    for label in LABELS:
        of = f" of `{label.metric.name}`" if label.metric else ""
        values = ", ".join(f"`{value}`" for value in label.values)
        lines.append(f"| `{label.name}`{of} | {'; '.join(part for part in (values, label.note) if part)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
