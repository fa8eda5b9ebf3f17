"""A cluster leaves nothing behind, however it ends, and does not mind another one beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import cgroups, control, faults, status, traces
from tests.cluster.cluster import Cluster
from tests.cluster.common import PROJECT, ClusterError, locked, wait_for
from tests.cluster.teardown import cgroup_of, life_lock, sweep
from tests.interrupts import obey_interrupts

pytestmark = pytest.mark.cluster


@pytest.fixture
def needs_own(owned_cluster: Cluster | None) -> None:
    """The session's cluster is up beside: so everything here also shows that two do not disturb each other."""
    if owned_cluster is None:
        pytest.skip("this test brings up clusters of its own")


_OWNER = """
import sys
from tests.cluster.cluster import Cluster
cluster = Cluster(sys.argv[1])
cluster.up(nodes=1)
print("up", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def _owned_elsewhere(cluster: Cluster) -> Iterator[subprocess.Popen[str]]:
    """Another process brings the cluster up, says so, and owns it; whatever the test left is removed."""
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, cluster.name],
        cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield owner
    finally:
        owner.kill()
        owner.communicate()
        cluster.down()


@pytest.mark.usefixtures("needs_own")
def test_of_two_who_bring_up_one_name_the_second_is_told_and_the_firsts_death_ends_it() -> None:
    cluster = Cluster(f"twice-{os.getpid()}")
    with _owned_elsewhere(cluster) as first:
        wait_for(cluster.log("control", "etcd").exists, what="the start of etcd", timeout=120, every=0.01)
        with pytest.raises(ClusterError, match="is being brought up by another process|is up already"):
            cluster.up(nodes=1)
        assert first.stdout is not None and first.stdout.readline() == "up\n"
        status.wait_healthy(cluster, "a healthy cluster all the same")
        members = traces.members(cluster)
        first.kill()
        first.wait()
        wait_for(lambda: not cluster.folder.exists(), what="the end of the cluster", timeout=180)
        traces.assert_nothing_of(cluster)
        assert traces.living(members) == []


@pytest.mark.usefixtures("needs_own")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_up_that_is_stopped_while_it_starts_leaves_nothing(number: int) -> None:
    cluster = Cluster(f"stopped-{os.getpid()}")
    words = [sys.executable, "-m", "tests.cluster", "--name", cluster.name, "up", "--nodes", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = subprocess.Popen(words, cwd=PROJECT, preexec_fn=obey_interrupts, **pipes)
    try:
        wait_for(cluster.log("node-1", "containerd").exists, what="the start of containerd", timeout=120, every=0.01)
        command.send_signal(number)
        said = command.communicate(timeout=240)
        assert command.returncode == (130 if number == signal.SIGINT else -number)
        assert "Traceback" not in said[1]
        wait_for(lambda: not cluster.folder.exists(), what="the end of the cluster", timeout=180)
        traces.assert_nothing_of(cluster)
    finally:
        command.kill()
        command.communicate()
        cluster.down()


@pytest.mark.usefixtures("needs_own")
def test_a_killed_supervisor_takes_all_processes_along_and_any_later_command_removes_the_rest(
    owned_cluster: Cluster,
) -> None:
    cluster = Cluster(f"headless-{os.getpid()}")
    with _owned_elsewhere(cluster) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "up\n"
        members = traces.members(cluster)
        assert len(members) > 15
        # The supervisor first: it would see the end of its owner, and take everything down in order.
        os.kill(_supervisor(cluster), signal.SIGKILL)
        owner.kill()
        wait_for(lambda: not traces.living(members), what="the end of every process", timeout=120)
        assert cluster.folder.exists() and traces.groups(cluster), "nobody was there to remove them"
        # A command that is about something else: it names another cluster.
        words = [sys.executable, "-m", "tests.cluster", "--name", "other", "down"]
        done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True)
        assert f"removed what a killed process had left of the cluster {cluster.name}" in done.stderr
        traces.assert_nothing_of(cluster)
    status.wait_healthy(owned_cluster, "the one that lives, not taken for dead")


def _supervisor(cluster: Cluster) -> int:
    start = f"-m tests.cluster.supervisor {cluster.folder} "
    (found,) = [int(path.name) for path in Path("/proc").glob("[0-9]*") if start in traces.command_line(path)]
    return found


@pytest.mark.usefixtures("needs_own")
def test_processes_and_control_groups_without_a_folder_are_found_too() -> None:
    """As after somebody emptied the cache under a killed cluster."""
    cluster = Cluster(f"homeless-{os.getpid()}")
    group = cgroup_of(cluster.folder)
    cgroups.create(f"{group}/node-1/system")
    left = subprocess.Popen(["sleep", "1000"], preexec_fn=lambda: cgroups.join(f"{group}/node-1/system"))
    try:
        with locked(life_lock(cluster.name), forget=True):
            sweep()
            assert left.poll() is None and traces.groups(cluster), "what somebody still holds was taken"
        sweep()
        assert left.wait(timeout=120) == -signal.SIGKILL
        traces.assert_nothing_of(cluster)
    finally:
        left.kill()
        left.wait()
        cgroups.remove(group)
        shutil.rmtree(cluster.folder, ignore_errors=True)


@pytest.mark.usefixtures("needs_own")
def test_status_says_what_is_wrong_and_why_and_the_machine_can_be_repaired(machines: Cluster) -> None:
    faults.kill_component(machines, "kube-scheduler")
    faults.kill_component(machines, "coredns")
    # A program that cannot start says why only in its log.
    control.start_program(machines.folder, "control", "coredns", ["sh", "-c", "echo panic: no Corefile; exit 4"], {})
    machines.stop_program("node-1", "kube-proxy")
    faults.kill_node(machines, "node-2")

    def troubles() -> str:
        return "\n".join(status.examine(machines).troubles)

    wait_for(lambda: "coredns: exit status" in troubles(), what="the end of coredns", timeout=120)
    said = troubles()
    assert "kube-scheduler: exit status" in said and "kube-proxy: exit status" in said
    assert "coredns: exit status 4; panic: no Corefile" in said
    assert "machine node-2: it was killed" in said
    faults.repair(machines)
    status.wait_healthy(machines, "a healthy cluster after the repair")
