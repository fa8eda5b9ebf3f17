"""The controller of `k8s/dead_nodes.yaml`: pods of dead nodes are cleared, if they are ours and the node stays dead."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cclm import storage
from cclm.checkpoints.commit import whole_manifest
from cclm.checkpoints.manifest import folder_name
from cclm.checkpoints.retention import checkpoint_steps
from tests.cluster import faults, mounted, run_faults, runs
from tests.cluster.cluster import Cluster
from tests.cluster.common import PROJECT, ClusterError, wait_for
from tests.cluster.demo_run import WARM
from tests.cluster.jobs import pod_spec, shell_job
from tests.cluster.kubectl import Kubectl
from tests.cluster.run_faults import check_end
from tests.cluster.runs import Run, Workbench
from tests.cluster.space import Space
from tests.stores.store import environment

pytestmark = pytest.mark.cluster

MANIFEST = PROJECT / "k8s" / "dead_nodes.yaml"
NAMESPACE, NAME = "cclm-system", "cclm-dead-nodes"
STEPS = 600
"""So many that a run is not over before the dead node is noticed, on a fast machine, too."""
SOON = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}
    for key in ("unreachable", "not-ready")
]


@pytest.fixture
def controller(machines: Cluster) -> Iterator[Kubectl]:
    """The manifest as it is shipped, but for the image and a shorter wait. It runs where no test kills a node."""
    objects = list(yaml.safe_load_all(MANIFEST.read_text()))
    deployment = next(item for item in objects if item["kind"] == "Deployment")
    namespace = next(item for item in objects if item["kind"] == "Namespace")
    parts = mounted.pod_parts()
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    kept = [mount for mount in container["volumeMounts"] if mount["mountPath"] != "/tmp"]
    container |= {**parts["container"], "volumeMounts": kept + parts["container"]["volumeMounts"]}
    container["command"] = [sys.executable, "-m", "k8s.dead_nodes"]
    container["args"] = ["--after=15", "--interval=1", "--port=9401"]
    pod["volumes"] = parts["volumes"]
    pod["nodeSelector"] = {"node-role.kubernetes.io/control-plane": ""}
    # The mounts of this machine's folders are what "restricted" forbids; the rest of the manifest keeps to it.
    namespace["metadata"]["labels"].pop("pod-security.kubernetes.io/enforce")
    whole = machines.kubectl
    whole.apply(*objects)
    api = whole.within(NAMESPACE)
    api("rollout", "status", f"deployment/{NAME}", "--timeout=120s", timeout=130)
    yield api
    for item in reversed(objects):
        whole("delete", item["kind"].lower(), item["metadata"]["name"], "-n", NAMESPACE, "--ignore-not-found")


def _job(space: Space, name: str, *, is_ours: bool) -> dict[str, Any]:
    """A job of one shell on node-1, which does not heed SIGTERM. A test before may have left that node only just."""
    untainted = lambda node: not node["spec"].get("taints")  # noqa: E731
    space.api.wait("node", "node-1", untainted, what="the end of node-1's taints")
    job = shell_job(space, name, "trap '' TERM; while true; do sleep 1; done", workers=1)
    pod_spec(job)["tolerations"] = SOON
    pod_spec(job)["affinity"] = _rather_on("node-1")
    if is_ours:
        template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
        template["metadata"] = {"labels": {"app.kubernetes.io/part-of": "cclm"}}
    return job


def _rather_on(node: str) -> dict[str, Any]:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    preference = {"weight": 100, "preference": {"matchExpressions": [expression]}}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}}


def _started(space: Space, *names: str) -> dict[str, str]:
    """Job -> uid of its pod, which runs on node-1."""
    uids = {}
    for name in names:
        item = space.wait_phase(f"{name}-worker-0", "Running")
        assert item["spec"]["nodeName"] == "node-1"
        uids[name] = item["metadata"]["uid"]
    return uids


def _wait_replaced(space: Space, name: str, uid: str) -> None:
    def replaced(item: Any) -> bool:
        return item is not None and item["metadata"]["uid"] != uid and item["status"].get("phase") == "Running"

    pod = f"{name}-worker-0"
    space.api.wait("pod", pod, replaced, what=f"the replacement of {pod}", timeout=120)


def _wait_deleted(space: Space, uids: dict[str, str]) -> None:
    """Wait until the cluster has evicted the pods of these jobs. They stay Terminating, or are cleared already."""
    for name, uid in uids.items():

        def evicted(item: Any, uid: str = uid) -> bool:
            return item is None or item["metadata"]["uid"] != uid or "deletionTimestamp" in item["metadata"]

        pod = f"{name}-worker-0"
        space.api.wait("pod", pod, evicted, what=f"eviction of {pod}", timeout=120)


def test_the_manifest_is_accepted_as_it_is_shipped(machines: Cluster) -> None:
    """Strictly validated, and its pod by PodSecurity "restricted"."""
    objects = list(yaml.safe_load_all(MANIFEST.read_text()))
    api = machines.kubectl
    api.apply(*[item for item in objects if item["kind"] in ("Namespace", "ServiceAccount")])
    try:
        template = next(item for item in objects if item["kind"] == "Deployment")["spec"]["template"]
        template["metadata"] |= {"name": "as-shipped", "namespace": NAMESPACE}
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        words = ("apply", "--dry-run=server", "--validate=strict", "-f", "-")
        said = api(*words, stdin=yaml.safe_dump_all([*objects, pod]))
        assert "pod/as-shipped created" in said and f"deployment.apps/{NAME} created" in said
    finally:
        api("delete", "namespace", NAMESPACE)


def test_pods_of_a_dead_node_are_cleared_if_they_are_ours(space: Space, machines: Cluster, controller: Kubectl) -> None:
    space.need("training-operator")
    space.api.apply(_job(space, "ours", is_ours=True), _job(space, "theirs", is_ours=False))
    uids = _started(space, "ours", "theirs")
    faults.kill_node(machines, "node-1")
    _wait_deleted(space, uids)
    faults.kill_component(machines, "kube-apiserver")  # the controller outlives that, too
    faults.restart_component(machines, "kube-apiserver")
    _wait_replaced(space, "ours", uids["ours"])
    assert space.api.get("pod", "ours-worker-0")["spec"]["nodeName"] != "node-1"
    theirs = space.api.get("pod", "theirs-worker-0")
    assert theirs["metadata"]["uid"] == uids["theirs"] and "deletionTimestamp" in theirs["metadata"]
    said = controller("logs", f"deployment/{NAME}")
    assert said.count(f"deleted pod {space.name}/ours-worker-0 of job ours by force: its node node-1") == 1
    assert "theirs" not in said and "Traceback" not in said
    assert controller.get("pod")[0]["status"]["containerStatuses"][0]["restartCount"] == 0

    def told() -> set[tuple[str, str]]:
        events = space.api.get("event", None, "--field-selector", "reason=DeadNode")
        return {(item["involvedObject"]["kind"], item["involvedObject"]["name"]) for item in events}

    wait_for(lambda: len(told()) > 1, what="the events about pod and job", timeout=120)
    assert told() == {("Pod", "ours-worker-0"), ("PyTorchJob", "ours")}


def test_a_node_that_is_back_in_time_is_left_alone_and_so_is_one_of_many(
    space: Space, machines: Cluster, controller: Kubectl
) -> None:
    """With two of three nodes lost nothing is cleared, however long; and the one that is back ends its own pod."""
    space.need("training-operator")
    space.api.apply(_job(space, "ours", is_ours=True))
    uids = _started(space, "ours")
    faults.cut_node(machines, "node-1")
    faults.cut_node(machines, "node-2")
    _wait_deleted(space, uids)
    wait_for(
        lambda: "2 of 3 nodes are not ready" in controller("logs", f"deployment/{NAME}"),
        what="the reason to wait",
        timeout=120,
    )
    faults.rejoin_node(machines, "node-1")
    _wait_replaced(space, "ours", uids["ours"])
    faults.rejoin_node(machines, "node-2")
    assert "deleted pod" not in controller("logs", f"deployment/{NAME}")


@pytest.mark.usefixtures("soak")
@pytest.mark.parametrize("nodes", ["1:2x1", "1x1"])
def test_a_run_whose_lost_node_goes_on_beside_the_replacement_ends_as_if_nothing_had_happened(
    space: Space, machines: Cluster, controller: Kubectl, bench: Workbench, pytestconfig: pytest.Config, nodes: str
) -> None:
    """Only the kubelet dies. So the cluster replaces the pod, while the old one trains on and reaches the store."""
    run = runs.start(space, bench, nodes=nodes, steps=STEPS, options=["lost_node_seconds=2"])
    with run:
        run.wait_step(WARM)
        old, node = run_faults.processes(run, 0), run.node_of(0)
        uid = space.api.get("pod", run.pod(0))["metadata"]["uid"]

        def replacement_takes_part() -> bool:
            """Whether it trains. Beside a second worker it may also wait: that may host the meeting of the old one."""
            pod, sample = space.api.get("pod", run.pod(0)), run.progress.latest.get(run.pod(0))
            is_new = pod is not None and pod["metadata"]["uid"] != uid and pod["status"].get("phase") == "Running"
            return is_new and (nodes != "1x1" or (sample is not None and sample.uid != uid))

        with run.fault("node goes on, cut off from the cluster (worker-0)"):
            faults.kill_kubelet(machines, node)
            run.wait(replacement_takes_part, "the replacement")
            assert Path(f"/proc/{old.agent}").exists()
            assert "deleted pod" in controller("logs", f"deployment/{NAME}")
        with _what_it_left(
            run, pytestconfig.rootpath / "build" / "cluster-failures" / f"beside-{nodes.replace(':', '-')}"
        ):
            check_end(run, pytestconfig.rootpath)


@contextmanager
def _what_it_left(run: Run, folder: Path) -> Iterator[None]:
    """Where a run does not end as it should, its small files and the names of its others are kept in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    except (AssertionError, ClusterError) as error:
        folder.mkdir(parents=True)
        with environment(run.bench.store.environment):
            for name in ("log.txt", "metrics.jsonl"):
                (folder / name).write_bytes(storage.read_bytes(storage.join(run.output, name)))
            steps = checkpoint_steps(run.output)
            makers = {step: whole_manifest(storage.join(run.output, folder_name(step))).attempt for step in steps}
        missing = sorted(set(range(1, run.steps + 1)) - run.losses().keys())
        error.add_note(f"steps without a line: {missing}; checkpoints and who made them: {makers}; more in {folder}")
        raise
