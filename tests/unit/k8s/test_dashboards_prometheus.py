"""A real Prometheus answers every expression of the dashboards and alerts with a recorded run."""

import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cclm.metrics.catalogue import CATALOGUE
from k8s.monitoring.outside_metrics import OUTSIDE_METRICS
from tests.prometheus_server import Prometheus, program, serving
from tests.unit.k8s.dashboard_files import ASKED, FILES, RULES, Asked, check_unit
from tests.unit.k8s.recording import INTERVAL, Recording, openmetrics, read, with_made_up

# The first time, Prometheus and promtool are built: minutes, or half an hour each on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

RECORDED = Path(__file__).with_name("recorded")

WITHOUT_DATA = {
    "cclm_model_flops_utilization_ratio": "CPUs have no peak",
    "cclm_device_memory_bytes": "CPUs have no device memory",
    "cclm_storage_": "its files were on a disk",
}
"""What the recorded run does not have."""
MAY_BE_EMPTY = {"network"}
"""Labels with an empty value, which to Prometheus are none."""
TRUE_AT_THE_END = {
    "CclmRecordsSkipped": "1 of 100 records was broken",
    "CclmPodsPending": "another job's pod is made up so",
}
"""Alerts whose expression had a value at the end of the recording; how long it did is another thing."""

ADDED_LABELS = {"namespace", "training_kubeflow_org_job_name", "pod", "container", "instance"}
"""By the PodMonitor."""
KNOWN = {metric.name: {*metric.labels, *ADDED_LABELS} for metric in CATALOGUE}
KNOWN |= {name: set(labels) for name, labels in OUTSIDE_METRICS.items()}
_RUN_LABELS = {"namespace", "training_kubeflow_org_job_name"}
KNOWN |= {
    "cclm:samples_per_process_second:rate10m": _RUN_LABELS,
    "cclm:gpus_held": _RUN_LABELS,
    "cclm:gpus_stepping": _RUN_LABELS,
    "cclm:gpu_of_run": {*_RUN_LABELS, "pod", "UUID", "Hostname", "gpu"},
    "cclm:gpu_xid": {"UUID", "Hostname", "gpu"},
}


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every node in what Prometheus understands of an expression, each before those below it."""
    if isinstance(tree, dict):
        yield tree
    for below in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from nodes(below)


def selectors(tree: Any) -> Iterator[dict[str, Any]]:
    """Selectors of metrics in an expression."""
    return (node for node in nodes(tree) if node.get("type") in ("vectorSelector", "matrixSelector"))


def _replaces_label(node: dict[str, Any]) -> bool:
    return node.get("type") == "call" and node["func"]["name"] == "label_replace"


def groupings(tree: Any) -> Iterator[str]:
    """Labels by which an expression groups or matches, and those that it makes others of."""
    for node in nodes(tree):
        if node.get("type") == "aggregation":
            yield from node["grouping"]
        if _replaces_label(node):
            yield node["args"][3]["val"]
        if node.get("matching"):
            yield from node["matching"]["labels"]
            yield from node["matching"]["include"] or []


def made(tree: Any) -> set[str]:
    """Labels that an expression makes by `label_replace`."""
    return {node["args"][1]["val"] for node in nodes(tree) if _replaces_label(node)}


@dataclass(frozen=True)
class Answering:
    prometheus: Prometheus
    recording: Recording


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answering]:
    """A Prometheus with the recorded run, and with what the recording rules make of it."""
    folder = tmp_path_factory.mktemp("recorded")
    recording = read((RECORDED / "metrics_of_a_run.txt").read_text())
    recording = with_made_up(recording, (RECORDED / "outside_metrics.txt").read_text())
    (folder / "metrics.txt").write_text(openmetrics(recording))
    (folder / "prometheus.yaml").write_text("{}")
    promtool, database = program("promtool"), folder / "prometheus"
    _run(promtool, "tsdb", "create-blocks-from", "openmetrics", folder / "metrics.txt", database)
    times = ("--start", recording.first, "--end", recording.last)
    options = ("--storage.tsdb.retention.time=100y",)
    for number in (1, 2):  # a rule that uses what another one records finds it the second time
        rules = folder / f"rules-{number}"
        with serving(folder, *options) as prometheus:
            words = ("--url", f"http://{prometheus.address}", "--output-dir", rules, *times, FILES / "alerts.yaml")
            _run(promtool, "tsdb", "create-blocks-from", "rules", *words)
        for block in rules.iterdir():
            shutil.move(block, database)
    with serving(folder, *options) as prometheus:
        yield Answering(prometheus, recording)


def _run(*words: object) -> None:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


EXPRESSIONS = {name: each.expression for name, each in ASKED.items()}
EXPRESSIONS |= {f"rule {rule.get('alert') or rule['record']}": rule["expr"] for rule in RULES}


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_each_expression_uses_metrics_and_labels_that_exist(expression: str, recorded: Answering) -> None:
    tree = recorded.prometheus.ask("parse_query", query=expression)
    used = list(selectors(tree))
    assert used
    labels = set()
    for selector in used:
        assert selector["name"] in KNOWN
        known = KNOWN[selector["name"]]
        assert {matcher["name"] for matcher in selector["matchers"]} - {"__name__"} <= known, selector["name"]
        labels |= known
    assert {*groupings(tree)} <= labels | made(tree)


@pytest.mark.parametrize("rule", RULES, ids=[rule.get("alert") or rule["record"] for rule in RULES])
def test_each_rule_is_evaluated(rule: dict[str, Any], recorded: Answering) -> None:
    answer = recorded.prometheus.ask("query", query=rule["expr"], time=recorded.recording.last)
    assert answer["resultType"] == "vector"
    if "alert" in rule:
        assert bool(answer["result"]) == (rule["alert"] in TRUE_AT_THE_END)
    else:
        kept = recorded.prometheus.ask("query", query=rule["record"], time=recorded.recording.last)
        for result in (answer["result"], kept["result"]):
            assert result
            assert {*result[0]["metric"]} - {"__name__"} <= KNOWN[rule["record"]]


@pytest.mark.parametrize("each", ASKED.values(), ids=ASKED)
def test_each_panel_gets_numbers_of_its_unit(each: Asked, recorded: Answering) -> None:
    times = {"start": recorded.recording.first, "end": recorded.recording.last, "step": INTERVAL}
    answer = recorded.prometheus.ask("query_range", query=each.expression, **times)
    assert answer["resultType"] == "matrix"
    if any(name in each.expression for name in WITHOUT_DATA):
        assert answer["result"] == []
        return
    assert answer["result"], "no data"
    labels = re.findall(r"{{(\w+)}}", each.legend)
    names = [
        tuple(series["metric"].get(label, "" if label in MAY_BE_EMPTY else None) for label in labels)
        for series in answer["result"]
    ]
    assert None not in [label for name in names for label in name], "the legend names a label that is not there"
    assert len({*names}) == len(names), "two series have the same legend"
    values = [float(value) for series in answer["result"] for _, value in series["values"]]
    values = [value for value in values if not math.isnan(value)]
    assert values
    check_unit(each.panel, values)
    if each.panel["type"] == "stat":
        assert len(names) == 1
