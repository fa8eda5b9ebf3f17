"""Gives tests a cluster: load it with `pytest_plugins = ["tests.cluster.plugin"]`.

A test marked `cluster` asks for the fixture `space` (a namespace of its own) and works on any cluster; one that must
damage machines asks for `machines` too, and is skipped on a cluster that this package does not own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import addons, builder, evidence, faults
from .cluster import Cluster, build_core
from .common import PROJECT, ClusterError, contained, digest, missing_prerequisite
from .kubectl import Kubectl
from .space import Space

if TYPE_CHECKING:
    from .runs import Workbench

SESSION_OPTIONS = ["training-operator"]
_IMAGE = pytest.StashKey[subprocess.Popen[bytes]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where tests marked `cluster` find their cluster."""
    group = parser.getgroup("cluster", "Kubernetes cluster for tests marked `cluster`")
    group.addoption("--kubeconfig", metavar="FILE", help="use the cluster of this file instead of bringing one up")
    group.addoption(
        "--cluster", metavar="NAME", help="use the cluster that `python -m tests.cluster --name NAME up` made"
    )
    group.addoption(
        "--soak", metavar="N", type=int, help="the tests of runs that CI leaves out, too, and N more random faults"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the tests that may have to build the programs first the time for it."""
    if not config.pluginmanager.hasplugin("timeout"):
        return
    for item in items:
        if item.get_closest_marker("cluster") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(5400))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what takes minutes and is asked for late: the image is built while the first tests wait."""
    config = session.config
    needs_image = any("project_image" in getattr(item, "fixturenames", ()) for item in session.items)
    foreign = config.getoption("--kubeconfig") or config.getoption("--collect-only")
    if needs_image and not foreign and not missing_prerequisite():
        # A process of its own, because tests change this one's environment; it ends with this one.
        words = contained([sys.executable, "-c", "from tests.cluster import builder; builder.project_image()"])
        quiet = subprocess.DEVNULL
        config.stash[_IMAGE] = subprocess.Popen(words, cwd=PROJECT, stdin=quiet, stdout=quiet, stderr=quiet)


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep what the cluster says about a test that failed, before its fixtures are taken down."""
    outcome: Any = yield
    report = outcome.get_result()
    space = getattr(item, "funcargs", {}).get("space")
    if report.failed and isinstance(space, Space):
        folder = _evidence_folder(item.config, item.nodeid)
        try:
            evidence.keep(space, folder)
            said = f"what the cluster says is kept in {folder}"
        except Exception as error:  # an error in this hook would end the whole session
            said = f"not all that the cluster says could be kept in {folder}: {type(error).__name__}: {error}"
        report.sections.append(("cluster", said))


def _evidence_folder(config: pytest.Config, test: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9]+", "-", test).strip("-")[-80:]
    return config.rootpath / "build" / "cluster-failures" / name


def _unavailable(sentence: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


@pytest.fixture(scope="session")
def owned_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster | None]:
    """The cluster of this session, brought up on first use; None where --kubeconfig names another."""
    if request.config.getoption("--kubeconfig"):
        yield None
        return
    sentence = missing_prerequisite()
    if sentence:
        _unavailable(sentence)
    named = request.config.getoption("--cluster")
    if named:
        cluster = Cluster(named)
        if not cluster.up_now:
            pytest.exit(f"the cluster {named} is not up", returncode=2)
        addons.install(cluster, SESSION_OPTIONS)
        yield cluster
        return
    cluster = Cluster(f"test-{os.getpid()}")
    try:
        _bring_up(cluster)
        yield cluster
    finally:
        cluster.down()


def _bring_up(cluster: Cluster) -> None:
    try:
        build_core()
        addons.build(SESSION_OPTIONS)
        cluster.up()  # owned by this process: if it is killed, the cluster goes too
        addons.install(cluster, SESSION_OPTIONS)
    except ClusterError as error:
        pytest.fail(f"the cluster could not be brought up: {error}", pytrace=False)


@pytest.fixture(scope="session")
def project_image(request: pytest.FixtureRequest, owned_cluster: Cluster | None) -> Path:
    """The archive of the project's own image, built from its Dockerfile once a content."""
    if owned_cluster is None:
        pytest.skip("the project's image is built for a cluster of ours")
    request.config.stash[_IMAGE].wait()
    try:
        return builder.project_image()  # it is there, or what prevented it is said
    except ClusterError as error:
        pytest.fail(f"the project's image could not be built: {error}", pytrace=False)


@pytest.fixture
def soak(pytestconfig: pytest.Config) -> int:
    """For tests that take minutes and are no part of the usual run: how many random faults they add."""
    number = pytestconfig.getoption("--soak")
    if number is None:
        pytest.skip("takes minutes: run it with --soak N")
    return int(number)


@pytest.fixture(scope="session")
def bench(owned_cluster: Cluster | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    """A store that pods reach, with the demo world in it: for runs of cclm."""
    if owned_cluster is None:
        pytest.skip("runs use this machine's Python, which the nodes of --kubeconfig do not have")
    # Here, because this file is loaded for all tests, and the Kubernetes client takes seconds.
    from tests.stores.server import StoreError

    from .runs import Workbench
    from .stores import ClusterS3

    try:
        store = ClusterS3(owned_cluster, tmp_path_factory.mktemp("cluster-s3"))
        store.create()
    except StoreError as error:
        _unavailable(str(error))
        raise
    made = None
    try:
        made = Workbench.make(store, tmp_path_factory.mktemp("bench"))
        yield made
    finally:
        if made is not None:
            made.end()
        store.kill()


@pytest.fixture(scope="session")
def cluster_api(request: pytest.FixtureRequest, owned_cluster: Cluster | None) -> Kubectl:
    """kubectl on the session's cluster, without a namespace."""
    if owned_cluster is not None:
        return owned_cluster.kubectl
    file = Path(request.config.getoption("--kubeconfig")).expanduser()
    if not file.is_file():
        pytest.exit(f"--kubeconfig: there is no file {file}", returncode=2)
    api = Kubectl(file.resolve())
    try:
        api("version", "--request-timeout=20s")
    except ClusterError as error:
        pytest.exit(f"--kubeconfig: {error}", returncode=2)
    return api


@pytest.fixture
def space(request: pytest.FixtureRequest, cluster_api: Kubectl, owned_cluster: Cluster | None) -> Iterator[Space]:
    """A namespace for this test alone, removed after it."""
    readable = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:30].strip("-")
    name = f"t-{readable}-{digest(request.node.nodeid, str(os.getpid()), os.urandom(4))[:6]}"
    shutil.rmtree(_evidence_folder(request.config, request.node.nodeid), ignore_errors=True)
    created = Space(cluster_api.within(name), owned_cluster)
    created.create()
    try:
        yield created
    finally:
        created.remove()


@pytest.fixture
def machines(owned_cluster: Cluster | None) -> Iterator[Cluster]:
    """The cluster whose machines may be damaged; repaired after the test."""
    if owned_cluster is None:
        pytest.skip("this test kills machines, and the cluster of --kubeconfig is not ours to damage")
    try:
        yield owned_cluster
    finally:
        faults.repair(owned_cluster)
