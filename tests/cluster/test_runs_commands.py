"""A run as its user sees it: torchx run, status, log, list and cancel, and what they say of mistakes."""

from __future__ import annotations

import contextlib
import os
import re
import signal

import pytest
import yaml

from tests.cluster import faults, run_faults, runs
from tests.cluster.cluster import Cluster
from tests.cluster.common import ClusterError, wait_for
from tests.cluster.demo_run import WARM
from tests.cluster.runs import Command, Run, Workbench
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster


def _state(said: Command) -> str:
    """The state that `torchx status` prints for the whole job."""
    found = re.search(r"State: (\w+)", said.out)
    assert said.code == 0 and found, said
    return found[1]


def _message(said: Command) -> str:
    """What `torchx status` says of the job, in words."""
    found = re.search(r"^ +Msg: (.*)$", said.out, re.MULTILINE)
    return found[1] if found else ""


def test_a_run_from_submission_to_success(space: Space, machines: Cluster, bench: Workbench) -> None:
    """With the control plane killed under it, which training does not notice."""
    run = runs.start(space, bench, nodes="1:2x1", steps=400)
    with run:
        run.wait_step(WARM)
        # Commands take seconds, and on a busy machine many: meanwhile the run could come to its end.
        ranks = run_faults.hold(run, 2)
        status = bench.torchx(space, "status", run.handle)
        assert _state(status) == "RUNNING"
        assert re.match(rf"step \d+ of {run.steps} .*itc \d.* left", _message(status)), status
        assert run.handle in bench.torchx(space, "list", "-s", "kubernetes").out
        log = bench.torchx(space, "log", run.handle)
        assert log.code == 0 and re.search(rf"step +1/{run.steps} ", log.out), log

        before = {pod["metadata"]["uid"] for pod in run.pods()}
        for component in ("kube-scheduler", "etcd", "kube-apiserver"):
            faults.kill_component(machines, component)
        faults_from = run.stored_step()
        run_faults.send(ranks, signal.SIGCONT)
        run.progress.wait(lambda: run.stored_step() >= faults_from + 15, "new steps without an API", str, timeout=240)
        run_faults.send(ranks, signal.SIGSTOP)
        for component in ("etcd", "kube-apiserver", "kube-scheduler"):
            machines.start_program("control", component)
        machines.wait_for_api()
        faults.kill_operator(space.api)
        faults.restart_operator(machines)
        run_faults.send(ranks, signal.SIGCONT)
        run.wait_step(run.progress.step + 1)
        assert {pod["metadata"]["uid"] for pod in run.pods()} == before

        assert run.wait_end() == "Succeeded"
        ended = bench.torchx(space, "status", run.handle)
        assert _state(ended) == "SUCCEEDED" and "Num Restarts: 0" in ended.out
        assert re.match(rf"step {run.steps} of {run.steps} \(100%\), .*itc \d", _message(ended)), ended
        # The operator removes pods that still run when the first one has ended, so that of rank 0 ends first.
        log = bench.torchx(space, "log", run.handle)
        assert log.code == 0 and re.search(rf"step +{run.steps}/{run.steps} ", log.out), log
        assert sorted(run.losses()) == list(range(1, run.steps + 1))
        assert run.audit().code == 0


def test_cancel_saves_and_leaves_the_record(space: Space, bench: Workbench) -> None:
    run = runs.start(space, bench, nodes="1:2x1", steps=100_000)
    with run:
        run.wait_step(WARM)
        followed = run.progress.step
        assert bench.torchx(space, "cancel", run.handle).code == 0
        wait_for(lambda: not run.pods(), what="the end of all pods", timeout=120, every=1, why=run.why)
        status = bench.torchx(space, "status", run.handle)
        assert _state(status) == "CANCELLED" and _message(status).startswith("cancelled at "), status
        assert run.stored_step() >= followed
        described = bench.cclm("describe", run.output)
        assert f"step-{run.stored_step():08d}" in described.out, described  # the last step is saved
        assert bench.torchx(space, "delete", run.handle).code == 0
        assert run.job() is None


def _failed(run: Run) -> str:
    """Wait for the failure; what `torchx status` says of it. No pod was replaced."""
    with run:
        assert run.wait_end() == "Failed", run.why()
        status = run.bench.torchx(run.space, "status", run.handle)
        assert _state(status) == "FAILED" and "Num Restarts: 0" in status.out, status
        made = run.space.api.get("event", None, "--field-selector", "reason=SuccessfulCreatePod")
        about = [item for item in made if item["involvedObject"]["name"] == run.name]
        assert sum(item.get("count", 1) for item in about) == 2
        return _message(status)


def test_mistakes_fail_at_once_and_status_says_the_sentence(space: Space, bench: Workbench) -> None:
    """A setting that cannot be, data that is not there, and training that diverges.

    torchx run sees a bad setting itself where it can read the config. So this one lies where only pods can.
    """
    bad = bench.config(100, data__images__batch_size=-1)
    started = {
        "setting": runs.start(space, bench, nodes="1:2x1", steps=100, name="setting", config=runs.WORLD / bad.name),
        "data": _start_with(space, bench, "data", f"data.images.files=[{bench.store.url}/nothing]"),
        "diverged": _start_with(space, bench, "diverged", "optimizer.lr=1e30"),
    }
    said = {name: _failed(run) for name, run in started.items()}
    assert "data.images.batch_size must be greater than 0, but it is -1" in said["setting"]
    assert f"data.images.files: {bench.store.url}/nothing does not exist" in said["data"]
    assert "training diverged: " in said["diverged"] and "Lower optimizer.lr" in said["diverged"]
    with pytest.raises(ClusterError, match="data.images.batch_size must be greater than 0, but it is -1"):
        _start_with(space, bench, "seen", "data.images.batch_size=-1")
    assert len(space.api.get("pytorchjob")) == 3


def _start_with(space: Space, bench: Workbench, name: str, override: str) -> Run:
    return runs.start(space, bench, nodes="1:2x1", steps=100, name=name, arguments=[override])


@pytest.mark.usefixtures("soak")
def test_retries_are_bounded_and_status_says_what_ended_them(space: Space, bench: Workbench) -> None:
    """A rank that is killed before each first checkpoint: the second start is the last one."""
    config = bench.config(100_000, training__save_every=None)
    options = ["max_attempts=2"]
    run = runs.start(space, bench, nodes="1:2x1", steps=100_000, config=config, options=options)
    with run:
        killed: set[int] = set()

        def kill_each_start() -> bool:
            """Kill the rank of worker-0 whenever it is a new one; whether the job has ended."""
            with contextlib.suppress(ClusterError):  # the pod is starting, or has ended
                for rank in set(run_faults.processes(run, 0).ranks) - killed:
                    os.kill(rank, signal.SIGKILL)
                    killed.add(rank)
            return run.progress.ended is not None

        run.progress.wait(kill_each_start, "the end of all attempts", run.why, timeout=300)
        assert run.progress.ended == "Failed"
        # This node may have begun a third start before the node that counts has refused it.
        assert len(killed) in (2, 3)
        said = _message(bench.torchx(space, "status", run.handle))
        assert "2 attempts in a row got no further than any checkpoint" in said, said


def test_a_dry_run_is_yaml_that_the_cluster_takes(space: Space, bench: Workbench) -> None:
    space.need("training-operator")
    words = ["run", "-s", "kubernetes", "--dryrun", "-cfg", f"namespace={space.name}", "cclm.pretrain"]
    words += ["--config", "configs/demo/pretrain.yaml", "-j", "1:2x1", "--image", "cclm:1", "--output_hdfs", "s3://b/x"]
    said = bench.torchx(space, *words)
    assert said.code == 0, said
    assert yaml.safe_load(said.out)["kind"] == "PyTorchJob"
    space.api("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=said.out)
