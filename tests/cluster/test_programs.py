"""The programs that `build` leaves in the cache for later use do what they are for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster import gobuild, kubectl
from tests.cluster.cluster import Cluster
from tests.cluster.common import versions
from tests.cluster.space import Space
from tests.prometheus_server import program, scraping

pytestmark = pytest.mark.cluster


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


@pytest.mark.parametrize(("expression", "status"), [(_RULE["expr"], 0), ("rate(steps_total[5m) == 0", 1)])
def test_promtool_accepts_rules_and_refuses_a_typo(tmp_path: Path, expression: str, status: int) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "steps", "rules": [{**_RULE, "expr": expression}]}]}))
    words = [program("promtool"), "check", "rules", rules]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr


def test_prometheus_scrapes_and_answers(tmp_path: Path) -> None:
    with scraping(tmp_path) as prometheus:
        [itself] = prometheus.query("up == 1")
        assert itself["metric"]["instance"] == prometheus.address
