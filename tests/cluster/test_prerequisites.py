"""What is missing or misspelt is said in one sentence; no cluster is needed to see that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.cluster import debs, gobuild, images, layout
from tests.cluster.common import PROJECT, ClusterError, versions
from tests.cluster.pki import Authority


def _run(*words: str, cache: Path, **env: str) -> subprocess.CompletedProcess[str]:
    surroundings = {"PATH": os.environ["PATH"], "CCLM_CLUSTER_CACHE": str(cache), "HOME": str(cache), **env}
    return subprocess.run(
        [sys.executable, *words], cwd=PROJECT, env=surroundings, capture_output=True, text=True, check=False
    )


def test_a_machine_without_go_is_told_so_in_one_sentence(tmp_path: Path) -> None:
    done = _run("-m", "tests.cluster", "up", cache=tmp_path, PATH="/nonexistent")
    assert done.returncode != 0
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert "a test cluster needs" in sentence
    assert os.geteuid() != 0 or "Go" in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="root is needed to try being somebody else")
def test_somebody_without_root_is_told_so_in_one_sentence(tmp_path: Path) -> None:
    env = {**os.environ, "CCLM_CLUSTER_CACHE": str(tmp_path)}
    if subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this container may not make a namespace for users")
    words = ["unshare", "--user", sys.executable, "-m", "tests.cluster", "up"]  # nobody, in a namespace without users
    done = subprocess.run(words, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    (sentence,) = done.stderr.splitlines()
    assert "needs root" in sentence


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_marked_tests_are_skipped_without_prerequisites_and_fail_in_ci(tmp_path: Path, ci: str, outcome: str) -> None:
    test = "tests/cluster/test_faults_pods.py::test_memory_without_a_limit_is_refused_not_eaten"
    words = ["-m", "pytest", "-p", "tests.cluster.plugin", "-p", "no:cacheprovider", "-rsE", test]
    done = _run(*words, cache=tmp_path, PATH="/nonexistent", CI=ci)
    assert outcome in done.stdout
    assert "a test cluster needs" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--name", "Big Name", "status"], "is no name for a cluster"),
        (["status"], "is not up"),
        (["run", "true"], "is not up"),
        (["up", "--with", "kuue"], "there is no option kuue; there are training-operator"),
        (["up", "--nodes", "9"], "a cluster has 1 to 4 nodes, not 9"),
        (["load", "absent.tar"], "is not an image archive"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    done = _run("-m", "tests.cluster", *words, cache=tmp_path)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "something was built first"


@pytest.mark.parametrize(
    "manifest", ["{}", "[]", "[1]", "3", '[{"RepoTags": 1}]', '[{"RepoTags": ["a:1"], "Config": "absent"}]', "no JSON"]
)
def test_an_archive_with_a_strange_manifest_is_answered_in_one_sentence(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with tarfile.open(tmp_path / "image.tar", "w") as whole:
        whole.add(tmp_path / "manifest.json", "manifest.json")
    with pytest.raises(ClusterError, match="is not an image archive"):
        images.described(tmp_path / "image.tar")


def test_a_cache_that_cannot_be_made_is_answered_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = _run("-m", "tests.cluster", "build", "kubectl", cache=tmp_path / "file")
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_every_program_has_its_version_from_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CCLM_CLUSTER_CACHE", str(tmp_path))
    for name, entry in versions()["go"].items():
        assert entry["version"] in str(gobuild.binary(name))
    with pytest.raises(ClusterError, match="names no program"):
        gobuild.binary("kubernets")
    with pytest.raises(ClusterError, match="names no package group"):
        debs.unpacked("nodes")


def test_an_image_is_written_once_for_a_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CCLM_CLUSTER_CACHE", str(tmp_path))
    one = images.archive("localhost/cclm/x:1", {"bin/a": b"1"})
    assert images.archive("localhost/cclm/x:1", {"bin/a": b"1"}) == one
    other = images.archive("localhost/cclm/x:1", {"bin/a": b"2"})
    assert other != one
    assert images.described(one).reference == images.described(other).reference == "localhost/cclm/x:1"
    assert images.described(one).identity != images.described(other).identity
    assert not list((tmp_path / "unfinished").iterdir())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made by openssl")
def test_a_clients_configuration_is_whole_at_every_moment(tmp_path: Path) -> None:
    authority, file = Authority(tmp_path / "pki"), tmp_path / "client"
    authority.kubeconfig(file, "client", "/CN=client", "https://first")
    with file.open() as reader:  # one that has just opened it when it is written again
        authority.kubeconfig(file, "client", "/CN=client", "https://second")
        assert "https://first" in reader.read()
    assert "https://second" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_addresses_of_machines_do_not_meet() -> None:
    machines = [layout.CONTROL, *layout.node_names(layout.MOST_NODES)]
    assert len({layout.address(machine) for machine in machines}) == len(machines)
    assert len({layout.pod_range(machine) for machine in machines}) == len(machines)
