"""Names of jobs, their pods and labels, within what Kubernetes and the operators take."""

from __future__ import annotations

import re
import secrets

from cclm.errors import UserError

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""Kubernetes' own, which form no words."""
_SUFFIX_LENGTH = 5
_MAX_LABEL = 63

BACKEND = "kubernetes"
"""The name by which TorchX knows this scheduler."""
JOB_LABEL = "app.kubernetes.io/instance"
"""Label with the job's name, on the job and its pods, the same for both kinds of job."""
APP_LABEL = "torchx.pytorch.org/app-name"
PART_OF_LABEL = "app.kubernetes.io/part-of"
"""`cclm` on runs of cclm only: their checkpoints are guarded against two writers, so their lost pods may be cleared."""
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "torchx"
"""On all jobs that come from TorchX."""


def worker_name(job: str, index: int) -> str:
    """Name of a PyTorchJob's pod and of its Service, which is also the pod's host name."""
    return f"{job}-worker-{index}"


def job_name(app_name: str, pods: int, reserved: int = 0) -> str:
    """A name for a new job, unlike those of other jobs of the same application.

    Args:
        app_name: name of the application; an underscore, as in TorchX's own components, becomes a dash.
        pods: most pods of the job; the numbers of pods are part of their names.
        reserved: characters by which the names of its pods are longer than those of a PyTorchJob.

    Raises:
        UserError: no such name can be made.
    """
    check_name(app_name.replace("_", "-"), pods, reserved=reserved + _SUFFIX_LENGTH + 1)
    suffix = "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(_SUFFIX_LENGTH))
    return f"{app_name.replace('_', '-')}-{suffix}"


def check_name(name: str, pods: int, reserved: int = 0) -> None:
    """Check the name of a job.

    Args:
        pods: most pods of the job.
        reserved: characters that will be added to the name.

    Raises:
        UserError: it is not DNS-1035, or the names of its pods would be too long.
    """
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        raise UserError(
            f"name {name}: Kubernetes takes lower-case letters, digits and - in it, and a letter first (DNS-1035)"
        )
    room = _MAX_LABEL - len(worker_name("", max(pods - 1, 0))) - reserved
    if len(name) > room:
        raise UserError(f"name {name} is too long for the names of its pods: make it {room} characters at most")


def label_value(text: str) -> str:
    """A text as the value of a label: what a label cannot hold becomes -."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:_MAX_LABEL].strip("-_.")
