"""The table of labels' values is what the code does."""

import re
from pathlib import Path

import numpy as np
import pytest

from cclm.config.files import CONFIGS
from cclm.data.examples.pretraining_examples import SOURCES
from cclm.data.stored import records
from cclm.launch.causes import Cause
from cclm.metrics.catalogue import CATALOGUE, DEVICE_MEMORY, NODES, TOKENS, Metric
from cclm.metrics.labels import LABELS
from cclm.metrics.metrics_lines import SPLITS
from cclm.metrics.phases import WAITING
from cclm.metrics.recall import retrieval_metrics
from cclm.storage import Outcome
from cclm.storage.observation import store_of

ROOT = Path(__file__).parents[3]


def test_every_label_of_every_metric_is_in_the_table_once() -> None:
    listed = [(label.name, label.metric) for label in LABELS]
    assert len(set(listed)) == len(listed)
    for metric in CATALOGUE:
        for name in metric.labels:
            assert ((name, metric) in listed) != ((name, None) in listed), f"{metric.name} {name}"
    used = {name for metric in CATALOGUE for name in metric.labels}
    assert {label.name for label in LABELS} == used
    assert all(label.values or label.note for label in LABELS)


def _in_source(pattern: str, *files: str) -> set[str]:
    """What a group of a pattern matches in source files, each named by its path below `cclm`."""
    paths = [path for file in files for path in (ROOT / "cclm").glob(file)]
    return {found for path in paths for found in re.findall(pattern, path.read_text(encoding="utf-8"))}


def _checks() -> set[str]:
    """Names of the preflight's checks, as its source has them; those of folders are the settings' names."""
    source = (ROOT / "cclm" / "cli" / "launch_preflight.py").read_text()
    return {*re.findall(r'Check\("(\w+)"', source), "output_dir", "output_hdfs"}


@pytest.mark.parametrize(("name", "expected"), [
    ("kind", {*SOURCES, "examples"}),
    ("source", {*SOURCES, "examples"}),
    ("reason", {text for name, text in vars(records).items() if name[0].isalpha() and name.isupper() and text
                and isinstance(text, str)}),
    ("split", set(SPLITS)),
    ("cause", {*(cause.name.lower() for cause in Cause), "membership"}),
    ("check", _checks()),
    ("store", {store_of(url) for url in ("hdfs://a/b", "s3://a/b", "gs://a/b", "/a/b")}),
    ("metric", {*retrieval_metrics(np.eye(1), np.eye(1), np.zeros(1, dtype=np.int64)), "accuracy"}),
    ("task", set(CONFIGS)),
    ("loss", {name.removeprefix("loss_") for name in _in_source(r'"(loss_?\w*)"[\]:]', "tasks/*.py")}),
    ("part", _in_source(r'(?:\.lap|_add_seconds)\("(\w+)"', "training/loop.py", "metrics/throughput.py")),
    ("backend", _in_source(r'dist\.get_backend\(\) == "(\w+)"', "distributed.py")),
    ("phase", _in_source(r'(?:PhaseChanged|show_phase)\((?:WAITING|"(\w+)")', "**/*.py") - {""} | {WAITING}),
    ("outcome", set(Outcome)),
    ("direction", _in_source(r'STORAGE_BYTES, size, store, "(\w+)"', "metrics/store_metrics.py")),
])  # fmt: skip
def test_values_are_those_of_the_code(name: str, expected: set[str]) -> None:
    [label] = [label for label in LABELS if label.name == name]
    assert set(label.values) == expected


@pytest.mark.parametrize(("metric", "expected"), [
    (TOKENS, _in_source(r'catalogue\.TOKENS, [\w.]+, "(\w+)"', "metrics/prometheus.py")),
    (DEVICE_MEMORY, _in_source(r'"(\w+)": torch\.cuda\.(?:max_)?memory_', "training/loop.py")),
    (NODES, _in_source(r'catalogue\.NODES, [\w.]+, "(\w+)"', "launch/metrics_sink.py")),
])  # fmt: skip
def test_states_are_those_of_the_code(metric: Metric, expected: set[str]) -> None:
    [label] = [label for label in LABELS if label.metric == metric]
    assert set(label.values) == expected
