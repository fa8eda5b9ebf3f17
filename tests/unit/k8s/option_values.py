"""Values of every run option, in combinations in which each two values of different options meet once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from allpairspy import AllPairs

from cclm.errors import UserError
from k8s.refusals import check
from k8s.settings import JobSettings
from tests.unit.k8s.applications import application

VALUES: dict[str, list[Any]] = {
    "context": ["other"],
    "namespace": [],  # that of the test
    "backend": [],  # a test of its own
    "runtime": ["torch-distributed"],
    "labels": [{"team": "vision", "example.com/cost-centre": "12"}],
    "annotations": [{"example.com/why": "a test: of options"}],
    "overlay": [],  # the test's file
    "queue": ["team-a"],
    "kueue_priority": ["high"],
    "kueue_required_topology": ["cloud.example.com/rack"],
    "kueue_preferred_topology": ["cloud.example.com/block"],
    "priority_class": ["urgent"],
    "scheduler_name": ["volcano"],
    "gang": [False],
    "gang_queue": ["research"],
    "gang_timeout": [600],
    "capacity": ["spot", "on-demand"],
    "tolerations": [("a", "b:NoSchedule", "c:d", "e:f:NoExecute")],
    "node_selectors": [{"pool": "training"}],
    "affinity": [],  # the test's file
    "spread_hosts": ["none", "required"],
    "same_zone": ["none", "required"],
    "lost_node_seconds": [0],
    "grace_seconds": [600],
    "restart_pods": [False],
    "max_attempts": [3],
    "deadline_seconds": [3600],
    "join_timeout": [60],
    "last_call_timeout": [1],
    "service_account": ["robot"],
    "service_account_token": [True],
    "image_pull_secrets": [("registry", "mirror")],
    "image_pull_policy": ["Always", "IfNotPresent"],
    "restricted": [False],
    "run_as_user": [10001],
    "run_as_group": [10001],
    "fs_group": [-1],
    "ipc_lock": [True],
    "secrets": [("aws", "hdfs")],
    "secret_env": [{"TOKEN": "hub/token"}],
    "config_maps": [("site", "proxy")],
    "volumes": [("pvc/data:/data:ro", "secret/krb:/etc/krb:ro", "configmap/hadoop:/etc/hadoop", "emptydir/1Gi:/cache")],
    "shm_size": ["1Gi"],
    "tmp_size": ["1Gi"],
    "ephemeral_storage": ["20Gi"],
    "efa": [0, 4],
    "devices": [{"rdma/hca": "1"}],
    "hugepages": ["1Gi"],
    "host_network": [True],
    "metrics_port": [0, 9500],
}
"""Values beside the default. A new option has to be entered here."""

ABSENT = object()


def combinations(
    first: Sequence[Any], changes: dict[str, list[Any]], base: JobSettings
) -> list[tuple[Any, JobSettings]]:
    """Values of `first`, each with settings, so that any two values of different options occur together.

    What `k8s.refusals` excludes is left out.

    Args:
        first: values of another factor, such as the component.
        changes: values of options of the test's own, which replace those of VALUES; an empty list leaves one out.
        base: settings that all have.
    """
    values = {name: found for name, found in {**VALUES, **changes}.items() if found}
    names = list(values)

    def settings_of(row: Sequence[Any]) -> JobSettings:
        given = {name: value for name, value in zip(names, row, strict=False) if value is not ABSENT}
        return dataclasses.replace(base, **given)

    def is_possible(row: Sequence[Any]) -> bool:
        # A row grows from the left, and what an option needs stands before it in the table.
        try:
            check(application("hello", entrypoint="echo"), settings_of(row[1:]))
        except UserError:
            return False
        return True

    rows = AllPairs([list(first), *([ABSENT, *found] for found in values.values())], filter_func=is_possible)
    return [(row[0], settings_of(row[1:])) for row in rows]
