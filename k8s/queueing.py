"""Why a job waits in a queue of Kueue, and at which place. Pure.

The job itself says only that it is suspended, which may mean that it is queued, was preempted, or was stopped by
hand. The reason stands in its Workload.
"""

from __future__ import annotations

from collections.abc import Sequence

from k8s.objects import Object, queue_of
from k8s.replicas import condition, is_true


def workload_of(job: Object, workloads: Sequence[Object]) -> Object | None:
    """The Workload that Kueue made for a job."""
    uid = job["metadata"]["uid"]
    for workload in workloads:
        if any(owner.get("uid") == uid for owner in workload["metadata"].get("ownerReferences") or []):
            return workload
    return None


def queue_words(job: Object, workloads: Sequence[Object] | None, *, is_training: bool) -> str | None:
    """Why a job waits in its queue, in words; None if it does not wait.

    Args:
        job: with a queue.
        workloads: all of the job's namespace; None if they may not be read.
        is_training: whether pods of it run.
    """
    queue, workload = queue_of(job), workload_of(job, workloads or ())
    if queue is None or (workload is None and is_training):
        return None
    if workloads is None:
        return f"waits in queue {queue} of Kueue; the reason stands in its Workload, which you may not read"
    if workload is None:
        return (
            f"Kueue has not taken the job into queue {queue} yet; if that lasts, Kueue is down, or its integration "
            "kubeflow.org/pytorchjob is off"
        )
    if is_true(workload, "QuotaReserved"):
        return None if is_true(workload, "Admitted") else f"has quota in queue {queue}, and waits for admission checks"
    if workload["spec"].get("active") is False:
        return "Kueue's Workload of the job is inactive"
    reserved = condition(workload, "QuotaReserved")
    reason = (reserved or {}).get("message") or "Kueue has not looked at it yet"
    words = f"{_place(workload, workloads)} of queue {queue}: {reason}"
    if is_true(workload, "Evicted"):
        evicted = condition(workload, "Evicted") or {}
        why = "preempted by a job of higher priority" if evicted.get("reason") == "Preempted" else evicted["message"]
        return f"{why}; it saved and left, and resumes from its checkpoint; now {words}"
    return words


def _place(workload: Object, workloads: Sequence[Object]) -> str:
    queue = workload["spec"].get("queueName")
    waiting = [
        other
        for other in workloads
        if other["spec"].get("queueName") == queue
        and other["spec"].get("active") is not False
        and not is_true(other, "QuotaReserved")
        and not is_true(other, "Finished")
    ]
    waiting.sort(
        key=lambda other: (
            -int(other["spec"].get("priority") or 0), other["metadata"]["creationTimestamp"], other["metadata"]["name"]
        )
    )  # fmt: skip
    names = [other["metadata"]["name"] for other in waiting]
    return f"place {names.index(workload['metadata']['name']) + 1} of {len(names)}"
