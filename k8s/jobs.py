"""The job of an application: refused with a sentence, or ready for the cluster."""

from __future__ import annotations

from typing import Any

from torchx.specs import AppDef

from k8s.manifest import pytorchjob
from k8s.names import job_name
from k8s.refusals import check
from k8s.settings import JobSettings
from k8s.trainjob import LONGER_POD_NAMES, trainjob


def build_job(app: AppDef, settings: JobSettings, name: str | None = None) -> dict[str, Any]:
    """The job as it is sent to the cluster, of the kind that the run options choose.

    Args:
        name: of the job; a new one is made if it is None.

    Raises:
        UserError: the application or a run option cannot be used.
    """
    check(app, settings)
    (role,) = app.roles
    if settings.backend == "trainjob":
        return trainjob(app, settings, name or job_name(app.name, role.num_replicas, reserved=LONGER_POD_NAMES))
    return pytorchjob(app, settings, name or job_name(app.name, role.num_replicas))
