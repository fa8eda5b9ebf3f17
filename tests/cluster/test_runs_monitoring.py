"""The chart's monitoring on a cluster: the Prometheus Operator makes a Prometheus of it, and damage makes alerts fire.

Alerts that take minutes or hours are loaded a second time with every duration divided by `QUICK`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k8s.monitoring.pictures import Window
from tests.cluster import demo_run, faults, images, monitoring, mounted, run_faults, runs
from tests.cluster.cluster import Cluster
from tests.cluster.common import ClusterError, wait_for
from tests.cluster.monitoring import wait_firing
from tests.cluster.progress import Progress
from tests.cluster.runs import Run, Workbench
from tests.cluster.space import Space
from tests.cluster.test_run_chart_life import Release
from tests.prometheus_server import Prometheus
from tests.unit.k8s.dashboard_files import RULES, asked, check_unit

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("soak")]

QUICK = 30
STEPS = 1_000_000
"""More than a run makes while it is watched."""
DASHBOARD_OF_A_RUN = {name for name in asked() if name.startswith("run: ")}
WITHOUT_DATA = {
    "How good is it in each language?": "it is not evaluated",
    "How much of what the GPUs can do does it use?": "CPUs have no peak",
    "How much memory do the devices have in use?": "CPUs have no device memory",
    "Are records broken?": "none is",
    "What interrupted it?": "nothing has",
}
"""Panels of the dashboard of a run that are empty on the cluster."""
RECORD = Path("build") / "alerts.jsonl"
"""How long alerts took to fire and to be over; under the project's root."""


class Watched:
    """A namespace whose runs are watched by a Prometheus of the operator."""

    def __init__(self, space: Space, bench: Workbench, cluster: Cluster, root: Path) -> None:
        self.space, self.bench, self._record = space, bench, root / RECORD
        self.prometheus: Prometheus = monitoring.start_prometheus(space, cluster)
        space.api.apply(monitoring.quick_rules(QUICK))
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": runs.SECRET}}
        space.api.apply({**secret, "stringData": bench.store.pod_environment})
        self._volumes = [self._claim(number, folder) for number, folder in enumerate(self._folders())]
        self._releases: list[Release] = []
        self._runs: list[Run] = []
        self.cause("installed")

    def _folders(self) -> list[Path]:
        return [*mounted.folders(), self.bench.folder]

    def _claim(self, number: int, folder: Path) -> dict[str, Any]:
        """A claim on a folder of this machine, as a value of the chart."""
        name = f"{self.space.name}-{number}"
        shared = {"accessModes": ["ReadOnlyMany"], "storageClassName": name}
        amount = {"storage": "1Gi"}
        self.space.api.apply(
            {
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
                "spec": {"capacity": amount, "hostPath": {"path": str(folder)}, **shared},
            },
            {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
                "spec": {"resources": {"requests": amount}, **shared},
            },
        )  # fmt: skip
        return {"claim": name, "path": str(folder), "readOnly": True}

    def start(self, name: str, config: dict[str, Any], **values: Any) -> Run:
        """Install the chart with a run that reads from this machine's disk and saves in the store."""
        repository, _, tag = images.BARE.rpartition(":")
        env = {entry["name"]: entry["value"] for entry in mounted.pod_parts()["container"]["env"]}
        output = self.bench.store.new_folder()
        given = {
            "image.repository": repository, "image.tag": tag, "image.pullPolicy": "IfNotPresent",
            "config": config, "output.url": output, "secrets": [runs.SECRET], "volumes": self._volumes,
            "env": {**env, "CCLM_STORAGE_PATIENCE": "5"}, "nodes.cpu": 1, "nodes.memoryMB": 2048,
            "security.runAsUser": runs.USER, "maxRestarts": 20, "faults.maxAttempts": 20,
            "monitoring.podMonitor.enabled": True, "monitoring.podMonitor.interval": "1s",
            "monitoring.alerts.enabled": not self._releases,
        } | values  # fmt: skip
        release = Release(self.space, "helm", name)
        self._releases.append(release)
        release("install", **given)
        [job] = [one for one in release.jobs() if one.startswith(name)]
        progress = Progress(self.space.api.kubeconfig, self.space.name, job)
        run = Run(self.space, self.bench, job, "", output, STEPS, progress)
        self._runs.append(run)
        # It takes a minute or two until the operator's configuration comes to Prometheus through kubelet.
        scraped = f'up{{training_kubeflow_org_job_name="{job}"}} == 1'
        run.wait(lambda: self.prometheus.query(scraped) and self._has_quick_rules(), "scrapes, and rules")
        return run

    def _has_quick_rules(self) -> bool:
        return any("quick" in rule.get("labels", {}) for rule in monitoring.rules(self.prometheus))

    def stop(self, run: Run) -> None:
        """Uninstall a run."""
        self._releases[self._runs.index(run)]("uninstall")

    def cause(self, what: str) -> None:
        """Say what is done now; times are counted from here."""
        self._cause, self._since = what, time.monotonic()

    def fires(self, alert: str, run: Run) -> None:
        """Wait until an alert fires, and write down how long after its cause that was."""
        self._wait(alert, True, run)

    def is_over(self, alert: str, run: Run) -> None:
        """Wait until an alert fires no longer, and write down how long after its cause that was."""
        self._wait(alert, False, run)

    def _wait(self, alert: str, fires: bool, run: Run) -> None:
        wait_firing(self.prometheus, alert, fires, run.why)
        line = {"alert": alert, "fires": fires, "cause": self._cause}
        self._record.parent.mkdir(parents=True, exist_ok=True)
        with self._record.open("a") as lines:
            lines.write(json.dumps({**line, "seconds": round(time.monotonic() - self._since, 1)}) + "\n")

    def end(self) -> None:
        """Remove what is not in the namespace."""
        for run in self._runs:
            run.progress.end()
        for release in self._releases:
            release("uninstall", check=False)
        names = [volume["claim"] for volume in self._volumes]
        self.space.api("delete", "persistentvolume", *names, "--wait=false")


@pytest.fixture
def watched(space: Space, machines: Cluster, bench: Workbench, pytestconfig: pytest.Config) -> Iterator[Watched]:
    made = Watched(space, bench, machines, pytestconfig.rootpath)
    try:
        yield made
    finally:
        made.end()


def _config(bench: Workbench, data: Path | str | None = None, **changes: Any) -> dict[str, Any]:
    """The demo world's run. Its data is on this machine's disk if no place is named."""
    settings = demo_run.settings(bench.world, str(data or bench.world / "data" / "pretrain"), STEPS, **changes)
    del settings["output_dir"]
    return settings


def test_the_operators_prometheus_scrapes_a_run_and_evaluates_everything(watched: Watched) -> None:
    run = watched.start("run", _config(watched.bench))
    prometheus = watched.prometheus
    run.wait_step(1)
    mine = f'namespace="{watched.space.name}",training_kubeflow_org_job_name="{run.name}"'
    wait_for(lambda: prometheus.query(f"cclm_train_step{{{mine}}} > 5"), what="steps in Prometheus", timeout=300)
    wait_for(lambda: prometheus.query(f"increase(cclm_train_steps_total{{{mine}}}[1m]) > 0"), what="more", timeout=120)

    shipped = {rule.get("alert") or rule["record"]: rule for rule in RULES}

    def loaded() -> dict[str, dict[str, Any]]:
        """The chart's rules as they are, without the quick ones."""
        return {rule["name"]: rule for rule in monitoring.rules(prometheus) if "quick" not in rule.get("labels", {})}

    def all_evaluated() -> bool:
        return shipped.keys() == loaded().keys() and all(rule["health"] != "unknown" for rule in loaded().values())

    wait_for(all_evaluated, what="the evaluation of all rules", timeout=180)
    for name, rule in loaded().items():
        assert (rule["health"], rule.get("lastError")) in [("ok", None), ("ok", "")], (name, rule)

    # Rates need some scrapes, and checkpoints have to be made first.
    expected = {name for name in DASHBOARD_OF_A_RUN if not any(panel in name for panel in WITHOUT_DATA)}
    last: dict[str, bool] = {}

    def all_have_data() -> bool:
        last.update(_have_data(prometheus, watched.space.name, run.name))
        return all(last[name] for name in expected)

    wait_for(all_have_data, what="data in all panels", timeout=300, every=5, why=lambda: f"{last}; {run.why()}")
    assert not any(last[name] for name in DASHBOARD_OF_A_RUN - expected), last


def _have_data(prometheus: Prometheus, namespace: str, run: str) -> dict[str, bool]:
    """Ask every expression of every dashboard; name to whether there are numbers. They have the unit that is said."""
    now = int(time.time())
    window = Window(start=now - 300, end=now, interval=15)
    found = {}
    for name, each in asked({"namespace": namespace, "run": run}, window).items():
        answer = prometheus.ask("query_range", query=each.expression, start=window.start, end=now, step=window.interval)
        assert answer["resultType"] == "matrix"
        values = [float(value) for series in answer["result"] for _, value in series["values"]]
        values = [value for value in values if not math.isnan(value)]
        check_unit(each.panel, values)
        found[name] = bool(values)
    return found


def test_a_run_that_stands_still_is_restarted_and_loses_its_store(watched: Watched) -> None:
    run = watched.start("run", _config(watched.bench))
    run.wait_step(2 * demo_run.SAVE_EVERY)

    watched.cause("training processes stopped (SIGSTOP)")
    ranks = run_faults.hold(run, 1)
    watched.fires("CclmNoProgress", run)
    watched.cause("they go on (SIGCONT)")
    run_faults.send(ranks, signal.SIGCONT)
    watched.is_over("CclmNoProgress", run)

    watched.cause("training process killed 4 times")
    for _ in range(4):
        killed = run_faults.processes(run, 0).ranks
        run_faults.send(killed, signal.SIGKILL)
        run.wait(lambda: _ranks(run) not in ([], killed), "new training processes")  # noqa: B023
    watched.fires("CclmRestarts", run)
    watched.cause("left alone")
    watched.is_over("CclmRestarts", run)

    run.wait_step(run.progress.step + demo_run.SAVE_EVERY)
    watched.cause("store killed")
    watched.bench.store.kill()
    try:
        watched.fires("CclmCheckpointFailing", run)
    finally:
        watched.cause("store started again")
        watched.bench.store.start()
    watched.is_over("CclmCheckpointFailing", run)


def _ranks(run: Run) -> list[int]:
    try:
        return run_faults.processes(run, 0).ranks
    except ClusterError:
        return []


def test_a_run_with_broken_records_that_diverges(watched: Watched) -> None:
    bench = watched.bench
    data = bench.folder / "broken"
    shutil.copytree(bench.world / "data" / "pretrain", data)
    for file in data.rglob("*.jsonl"):
        lines = file.read_text().splitlines()
        lines[::10] = [line[: len(line) // 2] for line in lines[::10]]
        file.write_text("".join(f"{line}\n" for line in lines))
    for path in (data, *data.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    puts_up = {"data__broken__max_rate": 1.0, "training__on_divergence": "skip"}
    puts_up |= {"training__max_skipped_updates": STEPS}
    run = watched.start("run", _config(bench, data, optimizer__lr=1e30, **puts_up))
    watched.cause("every tenth record cut in half, learning rate of 1e30")
    run.wait_step(1)
    watched.fires("CclmRecordsSkipped", run)
    watched.fires("CclmLossNotFinite", run)
    watched.cause("run removed")
    watched.stop(run)
    watched.is_over("CclmLossNotFinite", run)
    watched.is_over("CclmRecordsSkipped", run)


def test_a_run_that_never_comes_to_a_checkpoint(watched: Watched) -> None:
    config = _config(watched.bench, training__save_every=STEPS, checkpoints__save_minutes=None)
    run = watched.start("run", config)
    watched.cause("trains without saving")
    run.wait_step(1)
    watched.fires("CclmCheckpointTooOld", run)
    # A pod that is deleted in order saves before it goes.
    watched.cause("pod deleted, which saves a checkpoint")
    run_faults.delete_pod(run, 0)
    watched.is_over("CclmCheckpointTooOld", run)

    watched.cause("launcher killed 3 times between two checkpoints")
    for _ in range(3):
        run.wait_step(run.progress.step + 1)
        agent = run_faults.processes(run, 0).agent
        os.kill(agent, signal.SIGKILL)
        run.wait(lambda: _agent(run) not in (None, agent), "a new pod")  # noqa: B023
    watched.fires("CclmAttemptsWithoutCheckpoint", run)
    run.wait_step(run.progress.step + 1)
    watched.cause("pod deleted, which saves a checkpoint")
    run_faults.delete_pod(run, 0)
    watched.is_over("CclmAttemptsWithoutCheckpoint", run)


def _agent(run: Run) -> int | None:
    try:
        return run_faults.processes(run, 0).agent
    except ClusterError:
        return None


def test_a_run_whose_data_comes_slowly(watched: Watched, machines: Cluster) -> None:
    bench = watched.bench
    config = _config(bench, bench.data, training__save_every=STEPS, data__images__num_workers=1)
    run = watched.start("run", config)
    enough = "count_over_time(quick:samples_per_process_second:rate10m[12m]) >= 60"
    wait_for(lambda: watched.prometheus.query(enough), what="a median", timeout=400, why=run.why)
    node = run.node_of(0)
    watched.cause("network of the node slowed down")
    faults.slow_link(machines, node, kilobits=400)
    try:
        watched.fires("CclmThroughputDrop", run)
        watched.fires("CclmDataWait", run)
    finally:
        watched.cause("network as before")
        faults.steady_link(machines, node)
    # How much of its time the run waits for data then depends on what else this machine does.
    watched.is_over("CclmThroughputDrop", run)
