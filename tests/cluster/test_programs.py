"""The programs that `build` leaves in the cache for later use do what they are for."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import debs, gobuild, kubectl
from tests.cluster.cluster import Cluster
from tests.cluster.common import missing_prerequisite, versions, wait_for
from tests.cluster.space import Space
from tests.stores.server import free_ports

pytestmark = pytest.mark.cluster


@pytest.fixture
def cached() -> None:
    """Without what it takes to build them there are no such programs."""
    sentence = missing_prerequisite()
    if sentence:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(sentence)


def test_kubectl_is_of_the_clusters_version(space: Space, machines: Cluster) -> None:
    said = json.loads(space.api("version", "-o", "json"))
    wanted = versions()["go"]["kubernetes"]["version"]
    assert said["clientVersion"]["gitVersion"] == said["serverVersion"]["gitVersion"] == wanted
    assert kubectl.program() == gobuild.binary("kubectl")


def test_helm_installs_a_chart_and_removes_it(space: Space, tmp_path: Path) -> None:
    helm = gobuild.build("helm")
    chart = tmp_path / "small"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(yaml.safe_dump({"apiVersion": "v2", "name": "small", "version": "0.1.0"}))
    (chart / "values.yaml").write_text("word: default\n")
    template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-chart}\ndata: {word: {{ .Values.word }}}\n"
    (chart / "templates" / "map.yaml").write_text(template)
    env = {**kubectl.kubeconfig_environment(space.api.kubeconfig), "HELM_CACHE_HOME": str(tmp_path)}

    def run(*words: str) -> None:
        done = subprocess.run([helm, *words, "--namespace", space.name], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run("install", "one", str(chart), "--set", "word=chosen", "--wait")
    assert space.api.get("configmap", "from-chart")["data"] == {"word": "chosen"}
    run("uninstall", "one", "--wait")
    assert space.api.get("configmap", "from-chart") is None


_RULE = {"alert": "Stopped", "expr": "rate(steps_total[5m]) == 0", "for": "10m"}


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(("expression", "status"), [(_RULE["expr"], 0), ("rate(steps_total[5m) == 0", 1)])
def test_promtool_accepts_rules_and_refuses_a_typo(tmp_path: Path, expression: str, status: int) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "steps", "rules": [{**_RULE, "expr": expression}]}]}))
    words = [debs.program("prometheus", "promtool"), "check", "rules", rules]
    done = subprocess.run(words, env=_surroundings(), capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr


@pytest.mark.usefixtures("cached")
def test_prometheus_scrapes_and_answers(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    scrape = {"job_name": "itself", "scrape_interval": "1s", "static_configs": [{"targets": [address]}]}
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    program = debs.program("prometheus", "prometheus")
    words = [program, f"--config.file={tmp_path / 'prometheus.yaml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*words, f"--web.listen-address={address}"], env=_surroundings(), stderr=log)
    try:
        found = wait_for(
            lambda: _query(address, 'up{job="itself"} == 1'),
            what="a scrape", timeout=60, why=(tmp_path / "log").read_text,
        )  # fmt: skip
        assert found[0]["metric"]["instance"] == address
    finally:
        server.kill()
        server.wait()


def _query(address: str, expression: str) -> Any:
    url = f"http://{address}/api/v1/query?query={urllib.request.quote(expression)}"  # type: ignore[attr-defined]
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]["result"]
    except OSError:  # refused, reset, or no answer in time
        return None


def _surroundings() -> dict[str, str]:
    return {**os.environ, **debs.environment("prometheus")}
