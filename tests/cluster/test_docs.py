"""Commands of docs/kubernetes.md, as written."""

from __future__ import annotations

import os

import pytest
import yaml

from tests.cluster.kubectl import kubeconfig_environment
from tests.cluster.space import Space
from tests.pages import IN_A_CLUSTER, ROOT, shell

pytestmark = pytest.mark.cluster


def test_commands_of_the_page(space: Space) -> None:
    space.need("training-operator")
    dry_run, listing = IN_A_CLUSTER
    without = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    said = shell(dry_run, ROOT, **without, KUBECONFIG=os.devnull)
    assert said.returncode == 0, said.stderr
    manifest = yaml.safe_load(said.stdout)
    assert manifest["metadata"]["namespace"] == "team"
    manifest["metadata"]["namespace"] = space.name
    space.api("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(manifest))
    told = shell(listing, ROOT, **kubeconfig_environment(space.api.kubeconfig))
    assert told.returncode == 0 and "APP HANDLE" in told.stdout, told
