"""Changes the number of pods of a running job: `torchx resize HANDLE NODES`.

The API server and the operator take any number. Zero makes the job Succeeded at once and for good, and a number
outside of min and max breaks the rendezvous. So the number is checked here.
"""

from __future__ import annotations

from cclm.errors import UserError
from k8s.client import Cluster
from k8s.objects import PYTORCH_JOB, Object, queue_of
from k8s.replicas import State
from k8s.state import job_state, largest_size, replicas_of, smallest_size


def check_resize(job: Object, nodes: int) -> None:
    """Check that a job may have that number of pods.

    Raises:
        UserError: it may not; the sentence says why.
    """
    name = job["metadata"]["name"]
    if job["kind"] != PYTORCH_JOB.kind:
        raise UserError(f"{name} is a {job['kind']}, whose size is fixed: run it again with another -j")
    state = job_state(job, ())
    if state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        raise UserError(f"{name} is over ({state.value}), so it cannot be resized: run it again with another -j")
    policy = job["spec"].get("elasticPolicy") or {}
    least, most = smallest_size(job), int(policy.get("maxReplicas") or largest_size(job))
    if least == most:
        raise UserError(f"{name} was started with a fixed size of {most}: run it again with -j MIN:MAXxPROCESSES")
    if not least <= nodes <= most:
        raise UserError(
            f"{name} was started for {least} to {most} nodes, not {nodes}"
            + ("; to stop it, use torchx cancel" if nodes < 1 else ": run it again with another -j")
        )
    if queue_of(job) is not None and nodes != replicas_of(job):
        raise UserError(
            f"{name} is in Kueue's queue {queue_of(job)}: Kueue would stop all its pods and queue it again for its new "
            "size, and another job may take its quota; cancel it and run it again with another -j if that is wanted"
        )


def resize(cluster: Cluster, job: Object, nodes: int) -> None:
    """Give a job another number of pods. The last ones save and leave, or new ones join; the others go on.

    Args:
        cluster: where the job is.
        job: as it was just read.
        nodes: how many pods.

    Raises:
        UserError: the job may not have that number of pods.
    """
    check_resize(job, nodes)
    change = {"spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": nodes}}}}
    cluster.patch(PYTORCH_JOB, job["metadata"]["namespace"], job["metadata"]["name"], change)
