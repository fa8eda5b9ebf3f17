"""A cluster leaves nothing behind, however it ends, and does not mind another one beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import cgroups, faults, linux, status
from tests.cluster.cluster import Cluster
from tests.cluster.common import PROJECT, ClusterError, wait_for

pytestmark = pytest.mark.cluster

# Where container programs like to leave folders. The cache itself is elsewhere.
_WATCHED = ("/run", "/var/lib", "/var/log", "/etc", "/opt", "/usr/libexec", "/usr/local", "/tmp", "/var/tmp")


# What a kubelet sets for the whole machine where it may.
_SETTINGS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
_SETTINGS += ("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes")


def _settings() -> dict[str, str]:
    return {name: Path("/proc/sys", name).read_text() for name in _SETTINGS}


def _links() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def _mounts() -> set[str]:
    return {line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _members(cluster: Cluster) -> dict[int, str | None]:
    """Every process of a cluster, its pods' too, with the moment it began."""
    return {pid: linux.start_time(pid) for pid in cgroups.processes(cluster.settings["cgroup"])}


def _groups(name: str) -> list[Path]:
    return [path for root in cgroups.everywhere() for path in root.glob(f"*{name}*")]


def _processes(folder: Path) -> list[str]:
    """Processes that were started from, or with, a cluster's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text()
        except OSError:
            continue
        if str(folder) in command:
            found.append(command.replace("\0", " "))
    return found


def _names() -> set[str]:
    own = f"pytest-of-{os.environ.get('USER', 'root')}"
    return {f"{top}/{name}" for top in _WATCHED if Path(top).is_dir() for name in os.listdir(top) if name != own}


@pytest.fixture
def needs_own(owned_cluster: Cluster | None) -> Iterator[None]:
    """The session's cluster is up beside: so everything here also shows that two do not disturb each other."""
    if owned_cluster is None:
        pytest.skip("this test brings up clusters of its own")
    yield


@pytest.mark.usefixtures("needs_own")
def test_down_leaves_nothing(owned_cluster: Cluster) -> None:
    before = (_links(), _mounts(), _names())
    settings = _settings()
    second = Cluster(f"second-{os.getpid()}")
    try:
        second.up(nodes=1)
        second.kubectl("run", "x", "--image=localhost/cclm/tools:1", "--restart=Never", "--", "sleep", "1000")
        wait_for(
            lambda: second.kubectl.get("pod", "x")["status"]["phase"] == "Running",
            what="a pod on the second",
            timeout=90,
        )
        # Each has its own API, and the same addresses inside.
        assert second.kubeconfig.read_text() != owned_cluster.kubeconfig.read_text()
        assert len(second.kubectl.get("node")) == 2
        wait_for(lambda: not status.examine(owned_cluster).troubles, what="the first, healthy beside it", timeout=90)
        assert (_links(), _mounts()) == before[:2], "a running cluster shows on the machine"
        assert _settings() == settings, "a kubelet has set the machine's kernel"
        members = _members(second)
        assert len(members) > 15
    finally:
        second.down()
    _assert_nothing(second)
    assert _links() == before[0]
    # A namespace lives by its processes and its mounts, so with both gone none is left. (Their numbers say nothing:
    # the kernel gives them out again.)
    assert [pid for pid, began in members.items() if began and linux.start_time(pid) == began] == []
    assert _mounts() == before[1]
    # Other work on this machine may make and end files; ours carry its names or its programs.
    strange = {
        name
        for name in _names() - before[2]
        if any(word in name for word in ("kube", "cni", "containerd", "cclm", "netns", "mount", "flex"))
    }
    assert not strange


def _assert_nothing(cluster: Cluster) -> None:
    assert not cluster.folder.exists()
    assert _groups(cluster.name) == []
    wait_for(lambda: not _processes(cluster.folder), what=f"the end of {_processes(cluster.folder)}", timeout=20)


_OWNER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell starts with it ignored
from tests.cluster.cluster import Cluster
cluster = Cluster(sys.argv[1])
cluster.up(nodes=1)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.mark.usefixtures("needs_own")
def test_of_two_who_bring_up_one_name_the_second_is_told() -> None:
    cluster = Cluster(f"twice-{os.getpid()}")
    words = [sys.executable, "-c", _OWNER, cluster.name]
    first = subprocess.Popen(words, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(cluster.log("control", "etcd").exists, what="the start of etcd", timeout=60, every=0.01)
        with pytest.raises(ClusterError, match="is being brought up by another process|is up already"):
            cluster.up(nodes=1)
        assert first.stdout is not None and first.stdout.readline() == "up\n"
        wait_for(
            lambda: not status.examine(cluster).troubles,
            what="a healthy cluster after the second was refused",
            timeout=90,
        )
    finally:
        first.communicate()
        cluster.down()
    _assert_nothing(cluster)


@pytest.mark.usefixtures("needs_own")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("moment", ["while it starts", "when it is up"])
def test_the_owners_death_takes_the_cluster_down(moment: str, number: int) -> None:
    cluster = Cluster(f"orphan-{os.getpid()}")
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, cluster.name],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        if moment == "when it is up":
            assert owner.stdout is not None and owner.stdout.readline() == "up\n"
        else:
            wait_for(cluster.log("node-1", "containerd").exists, what="the start of containerd", timeout=60, every=0.01)
        owner.send_signal(number)
        owner.wait()
        wait_for(lambda: not cluster.folder.exists(), what="the end of the cluster", timeout=60)
        _assert_nothing(cluster)
    finally:
        owner.kill()
        owner.communicate()
        cluster.down()


@pytest.mark.usefixtures("needs_own")
def test_a_killed_supervisor_takes_all_processes_along_and_down_removes_the_rest() -> None:
    cluster = Cluster(f"headless-{os.getpid()}")
    try:
        cluster.up(nodes=1)
        supervisors = [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if f"tests.cluster.supervisor\0{cluster.folder}\0" in _command(process)
        ]
        assert len(supervisors) == 1
        group = cluster.settings["cgroup"]
        os.kill(supervisors[0], signal.SIGKILL)
        wait_for(lambda: not cgroups.processes(group), what="the end of every process", timeout=30)
    finally:
        cluster.down()
    _assert_nothing(cluster)


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.usefixtures("needs_own")
def test_status_says_what_is_wrong_and_the_machine_can_be_repaired(machines: Cluster) -> None:
    faults.kill_component(machines, "kube-scheduler")
    faults.kill_node(machines, "node-2")
    troubles = "\n".join(status.examine(machines).troubles)
    assert "kube-scheduler: exit status" in troubles
    assert "machine node-2: it was killed" in troubles
    faults.repair(machines)
    assert status.examine(machines).troubles == []
