"""The project's own image, really built from its Dockerfile, and the quick way without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import builder, debs, images, mounted, traces
from tests.cluster.cluster import Cluster
from tests.cluster.common import PROJECT, wait_for
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster


def test_the_projects_image_runs_without_rights_on_every_node(
    space: Space, machines: Cluster, project_image: Path
) -> None:
    """Built without PyTorch and its company (5 GB), which the command line needs only when it computes."""
    reference = machines.load(project_image)
    script = "id -u; cclm --help > /dev/null && echo help works; touch /opt/cclm/x 2>&1; touch /tmp/y && echo tmp works"
    for node in machines.node_names:
        pod = {
            "name": "main",
            "image": reference,
            "imagePullPolicy": "Never",
            "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
            "securityContext": {
                "runAsNonRoot": True,
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        manifest = space.pod_manifest(f"on-{node}", node=node, volumes=[{"name": "scratch", "emptyDir": {}}])
        manifest["spec"]["containers"] = [pod]
        space.api.apply(manifest)
    for node in machines.node_names:
        space.wait_phase(f"on-{node}", "Succeeded", "Failed")
        said = space.api("logs", f"on-{node}").splitlines()
        assert said[:2] == ["10001", "help works"]
        assert "Read-only file system" in said[2]
        assert said[3] == "tmp works"


def test_the_image_is_built_once_for_a_content(project_image: Path) -> None:
    written = project_image.stat().st_ino
    assert builder.project_image() == project_image
    assert project_image.stat().st_ino == written


def test_the_working_tree_runs_in_a_bare_image(space: Space, machines: Cluster) -> None:
    parts = mounted.pod_parts()
    manifest = space.pod_manifest("quick", volumes=parts["volumes"])
    program = "import torch, cclm; print('sum', torch.ones(3).sum().item(), cclm.__file__)"
    manifest["spec"]["containers"] = [
        {"name": "main", "command": [sys.executable, "-c", program], **parts["container"]}
    ]
    space.api.apply(manifest)
    space.wait_phase("quick", "Succeeded", "Failed")
    said = space.api("logs", "quick")
    assert "sum 3.0" in said
    assert str(PROJECT) in said


def test_an_image_loaded_again_under_its_name_replaces_the_old_one(space: Space, machines: Cluster) -> None:
    busybox = debs.program("tools", "busybox")
    reference = "localhost/cclm/changing:1"

    def load_and_run(word: str) -> set[str]:
        files = {"bin/busybox": busybox, "said": word.encode()}
        assert machines.load(images.archive(reference, files, links={"bin/cat": "busybox"})) == reference
        names = {f"{word}-{node}": node for node in machines.node_names}
        for name, node in names.items():
            manifest = space.pod_manifest(name, node=node)
            manifest["spec"]["containers"][0].update(image=reference, imagePullPolicy="Never", command=["cat", "/said"])
            space.api.apply(manifest)
        for name in names:
            space.wait_phase(name, "Succeeded")
        return {space.api("logs", name) for name in names}

    assert load_and_run("first") == {"first"}
    assert load_and_run("second") == {"second"}
    assert load_and_run("first") == {"first"}  # and back: the old content is known, but the name was given away


_BUILD = "import sys; from pathlib import Path; from tests.cluster import builder; "
_BUILD += "builder.build(Path(sys.argv[1]), 'localhost/cclm/killed:1')"


@pytest.mark.usefixtures("project_image")  # it has been built: the builder's store is free
def test_an_image_build_ends_with_the_one_who_asked(tmp_path: Path) -> None:
    # A duration that nobody else sleeps.
    (tmp_path / "Dockerfile").write_text(f"ARG BASE\nFROM ${{BASE}}\nRUN sleep 98{os.getpid()}\n")
    before = traces.of_machine()
    process = subprocess.Popen([sys.executable, "-c", _BUILD, str(tmp_path)], cwd=PROJECT)
    try:
        running = lambda: any(line.startswith("sleep ") for line in traces.mentioning(f"98{os.getpid()}"))  # noqa: E731
        wait_for(running, what="the build's own command", timeout=120, every=0.05)
    finally:
        process.kill()
        process.wait()
    ended = lambda: not running() and not traces.mentioning(str(tmp_path))  # noqa: E731
    wait_for(ended, what="the end of buildah and of what it ran", timeout=60, every=0.05)
    assert traces.of_machine() == before
    assert builder.reference_missing("localhost/cclm/killed:1")
    # The store is whole: the same build, with a command that ends, works.
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nRUN true\n")
    builder.build(tmp_path, "localhost/cclm/killed:1")
    builder.forget("localhost/cclm/killed:1")
