"""The job of an application: refused with a sentence, or ready for the cluster."""

from __future__ import annotations

import dataclasses
from typing import Any

from torchx.specs import NULL_RESOURCE, AppDef, Resource

from k8s import launch_command
from k8s.manifest import pytorchjob
from k8s.names import job_name
from k8s.refusals import check
from k8s.settings import JobSettings
from k8s.trainjob import LONGER_POD_NAMES, trainjob

CORES, MEGABYTES = 8, 48_000
"""What a process that trains a published model gets beside its GPU where nothing is said of the nodes. Each machine of
the named resources has that, and more."""


def build_job(app: AppDef, settings: JobSettings, name: str | None = None) -> dict[str, Any]:
    """The job as it is sent to the cluster, of the kind that the run options choose.

    Args:
        name: of the job; a new one is made if it is None.

    Raises:
        UserError: the application or a run option cannot be used.
    """
    app = _sized(app)
    check(app, settings)
    (role,) = app.roles
    if settings.backend == "trainjob":
        return trainjob(app, settings, name or job_name(app.name, role.num_replicas, reserved=LONGER_POD_NAMES))
    return pytorchjob(app, settings, name or job_name(app.name, role.num_replicas))


def _sized(app: AppDef) -> AppDef:
    """The application with nodes that have a GPU for each process, where a run of cclm says nothing of its nodes."""
    if len(app.roles) != 1 or app.roles[0].resource != NULL_RESOURCE:
        return app
    (role,) = app.roles
    launched = launch_command.read(role)
    if launched is None:
        return app
    processes = launched.processes_per_node or 1
    size = Resource(cpu=CORES * processes, gpu=processes, memMB=MEGABYTES * processes)
    return dataclasses.replace(app, roles=[dataclasses.replace(role, resource=size)])
