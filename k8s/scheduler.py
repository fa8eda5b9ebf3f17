"""TorchX's scheduler `kubernetes`: one role becomes one PyTorchJob, or TrainJob. Fits TorchX 0.7 and its nightly.

    torchx run -s kubernetes -cfg namespace=team cclm.pretrain --config configs/demo/pretrain.yaml

It is thin. `k8s.manifest` makes the job, `k8s.observe` and `k8s.state` tell what it does, `k8s.logs` reads its logs,
and `k8s.client` alone talks to the cluster. It builds no images, so a dry run needs neither a cluster nor Docker.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, List  # noqa: UP035  within the class, `list` is a method

import yaml
from torchx.schedulers.api import DescribeAppResponse, ListAppResponse, Scheduler, Stream
from torchx.specs import AppDef, AppDryRunInfo, AppState, ReplicaStatus, Role, RoleStatus, runopts

from cclm.errors import UserError
from k8s import client, user_errors
from k8s.client import Cluster
from k8s.jobs import build_job
from k8s.logs import Follower, Selection
from k8s.names import APP_LABEL, BACKEND
from k8s.objects import (
    CANCELLED,
    CONTAINER_OF,
    DASHBOARD,
    KINDS,
    PYTORCH_JOB,
    ROLE_NAME,
    WORKLOAD,
    Object,
    queue_of,
)
from k8s.observe import find_job, list_jobs, observe
from k8s.queueing import workload_of
from k8s.references import check_references
from k8s.replicas import Replica, State
from k8s.resize import resize
from k8s.settings import JobSettings, run_options
from k8s.state import Description, describe, job_state, largest_size, smallest_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobRequest:
    """What `torchx run` would create. Its text is YAML that `kubectl apply -f -` takes."""

    manifest: Object
    settings: JobSettings

    def __str__(self) -> str:
        return yaml.safe_dump(self.manifest, sort_keys=False, width=120)

    def __repr__(self) -> str:
        return str(self)


class KubernetesScheduler(Scheduler[Any]):  # type: ignore[misc]  # torchx has no type information
    """Jobs of the training operator as TorchX applications. Ids of applications are `NAMESPACE:NAME`."""

    def __init__(self, session_name: str, connect: Callable[[str | None], Cluster] = client.connect) -> None:
        """Nothing is read or sent before it is needed.

        Args:
            session_name: TorchX's.
            connect: makes the connection, given a context of the kubeconfig.
        """
        super().__init__(BACKEND, session_name)
        self._connect = connect
        self._cluster: Cluster | None = None
        self._connecting = threading.Lock()

    def _run_opts(self) -> runopts:
        return run_options()

    def _validate(self, app: AppDef, scheduler: str, *more: object) -> None:
        """What an application must be is checked where its job is made. The nightly gives one argument more."""

    def _submit_dryrun(self, app: AppDef, cfg: Mapping[str, Any]) -> AppDryRunInfo:
        settings = JobSettings.from_config(cfg)
        return AppDryRunInfo(JobRequest(build_job(app, settings), settings), str)

    def schedule(self, dryrun_info: AppDryRunInfo) -> str:
        """Create the job. The cluster checks it first, so that a mistake leaves nothing behind.

        Returns:
            The application's id.

        Raises:
            UserError: one sentence on what is missing or wrong; nothing was created.
        """
        request: JobRequest = dryrun_info.request
        cluster = self._get_cluster(request.settings.context)
        namespace = request.settings.namespace or cluster.namespace
        resource, name = KINDS[request.manifest["kind"]], request.manifest["metadata"]["name"]
        cluster.create(resource, namespace, request.manifest, is_dry_run=True)
        check_references(cluster, namespace, request.manifest)
        cluster.create(resource, namespace, request.manifest)
        handle = f"{BACKEND}://{self.session_name}/{namespace}:{name}"
        logger.info("state:  torchx status %s", handle)
        logger.info("logs:   torchx log -t %s", handle)
        logger.info("end it: torchx cancel %s", handle)
        return f"{namespace}:{name}"

    def exists(self, app_id: str) -> bool:
        """Whether there is such a job."""
        return self._find(app_id) is not None

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """What a job does, None if there is no such job."""
        cluster = self._get_cluster()
        job = self._find(app_id)
        if job is None:
            return None
        found = describe(observe(cluster, job))
        role = _role_of(job)
        statuses = [_replica_status(replica, role.name, found) for replica in found.replicas]
        response = DescribeAppResponse(
            app_id=app_id,
            state=_app_state(found.state),
            num_restarts=found.restarts.total,
            msg="\n        ".join(found.lines()) or found.state.value,
            roles=[role],
            roles_statuses=[RoleStatus(role.name, statuses)],
            ui_url=(job["metadata"].get("annotations") or {}).get(DASHBOARD),
        )
        if found.failure is not None:
            response.structured_error_msg = json.dumps(
                {"message": found.failure.sentence, "exit_code": found.failure.exit_code}
            )
        return response

    def list(self, *arguments: object, **keywords: object) -> List[ListAppResponse]:  # noqa: UP006
        """Jobs that `torchx run` made, in all namespaces if the user may list them, else in the kubeconfig's.

        The nightly passes a configuration, which says nothing more than .torchxconfig.
        """
        return [
            ListAppResponse(
                app_id=f"{entry.job['metadata']['namespace']}:{entry.job['metadata']['name']}",
                state=_app_state(job_state(entry.job, entry.pods)),
            )
            for entry in list_jobs(self._get_cluster())
        ]

    def _cancel_existing(self, app_id: str) -> None:
        """Let the pods of a job save and leave. The job's record stays."""
        cluster, job = self._get_cluster(), self._get(app_id)
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        change: Object = {"metadata": {"annotations": {CANCELLED: datetime.now(UTC).isoformat(timespec="seconds")}}}
        workload = None
        if queue_of(job) is not None:
            # Kueue undoes a suspension of its jobs by others. It leaves a job alone whose Workload is inactive.
            workload = workload_of(job, cluster.list(WORKLOAD, namespace))
        if workload is None:
            is_pytorch = job["kind"] == PYTORCH_JOB.kind
            change["spec"] = {"runPolicy": {"suspend": True}} if is_pytorch else {"suspend": True}
        # First the annotation: without it a suspended job would look like one that waits.
        cluster.patch(KINDS[job["kind"]], namespace, name, change)
        if workload is not None:
            cluster.patch(WORKLOAD, namespace, workload["metadata"]["name"], {"spec": {"active": False}})

    def delete(self, app_id: str) -> None:
        """Remove a job and its record, if it exists. TorchX 0.7 has no such method itself."""
        if self._find(app_id) is not None:
            self._delete_existing(app_id)

    def _delete_existing(self, app_id: str) -> None:
        job = self._get(app_id)
        cluster = self._get_cluster()
        cluster.delete(
            KINDS[job["kind"]], job["metadata"]["namespace"], job["metadata"]["name"], uid=job["metadata"]["uid"]
        )

    def resize(self, app_id: str, nodes: int) -> None:
        """Change the number of pods of a running elastic job; see `k8s.resize`."""
        resize(self._get_cluster(), self._get(app_id), nodes)

    def log_iter(
        self,
        app_id: str,
        role_name: str,
        k: int = 0,
        regex: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        should_tail: bool = False,
        streams: Stream | None = None,
    ) -> Iterable[str]:
        """Lines of one replica's log, across its restarts; see `k8s.logs`.

        Args:
            app_id: `NAMESPACE:NAME`.
            role_name: of the application's only role.
            k: which replica, as a node's number.
            regex: only lines that contain this expression.
            since: only lines from then on; a time without a zone is a local one.
            until: only lines until then.
            should_tail: go on until the job is over.
            streams: only `combined`, as Kubernetes keeps stdout and stderr together.
        """
        if streams not in (None, Stream.COMBINED):
            raise UserError("Kubernetes keeps stdout and stderr of a container together: leave out --streams")
        job = self._get(app_id)
        role = _role_of(job).name
        if role_name != role:
            raise UserError(f"{app_id} has no role {role_name}; its only role is {role}")
        if not 0 <= k < largest_size(job):
            raise UserError(f"{app_id} has no replica {k}: they are numbered 0 to {largest_size(job) - 1}")
        selection = Selection.build(regex, since, until)
        metadata = job["metadata"]
        follower = Follower(
            self._get_cluster(), KINDS[job["kind"]], metadata["namespace"], metadata["name"], k, selection
        )
        return follower.lines(is_followed=should_tail)

    def _get_cluster(self, context: str | None = None) -> Cluster:
        """The connection, made at the first use. Without a context, the one of .torchxconfig is meant."""
        with self._connecting:
            if self._cluster is None:
                self._cluster = self._connect(context or _configured_context())
            return self._cluster

    def _find(self, app_id: str) -> Object | None:
        namespace, colon, name = app_id.rpartition(":")
        cluster = self._get_cluster()
        return find_job(cluster, namespace if colon else cluster.namespace, name)

    def _get(self, app_id: str) -> Object:
        job = self._find(app_id)
        if job is None:
            raise UserError(f"there is no job {app_id}; see the jobs with: torchx list -s {BACKEND}")
        return job


def create_scheduler(session_name: str, **settings: object) -> KubernetesScheduler:
    """What TorchX calls. It passes environment variables that begin with TORCHX_ as settings, which are ignored."""
    user_errors.show_as_sentences()
    return KubernetesScheduler(session_name)


def _configured_context() -> str | None:
    """The context that .torchxconfig names for this scheduler."""
    from torchx.runner import config

    found: dict[str, Any] = {}
    config.apply(scheduler=BACKEND, cfg=found)
    return found.get("context")


def _app_state(state: State) -> AppState:
    return AppState[state.name]


def _role_of(job: Object) -> Role:
    labels = job["metadata"].get("labels") or {}
    specs = job["spec"].get("pytorchReplicaSpecs") or {}
    pod = ((specs.get("Worker") or {}).get("template") or {}).get("spec") or {}
    container: Object = next(
        (one for one in pod.get("containers") or [] if one["name"] == CONTAINER_OF[job["kind"]]), {}
    )
    image = container.get("image") or (job["spec"].get("trainer") or {}).get("image") or ""
    # All that the job may grow to, so that `torchx log -t` follows pods that come later, too.
    return Role(
        name=labels.get(ROLE_NAME) or labels.get(APP_LABEL) or "worker",
        image=image,
        num_replicas=largest_size(job),
        min_replicas=smallest_size(job),
    )


def _replica_status(replica: Replica, role: str, found: Description) -> ReplicaStatus:
    state = replica.state
    if found.state in (State.FAILED, State.CANCELLED, State.SUCCEEDED) and state is State.PENDING:
        # Its pod was removed when the job ended.
        state = State.SUCCEEDED if found.state is State.SUCCEEDED else State.CANCELLED
    status = ReplicaStatus(id=replica.index, role=role, state=_app_state(state), hostname=replica.node or "")
    text = replica.failure.sentence if replica.failure else None
    if text is None and state is State.CANCELLED:
        text = "stopped with the job"
    if text is not None:
        # The form of torchelastic's error files, which TorchX prints in full.
        moment = replica.failure.time if replica.failure and replica.failure.time else datetime.now(UTC)
        code = replica.failure.exit_code if replica.failure else None
        extra = {"timestamp": int(moment.timestamp())}
        status.structured_error_msg = json.dumps({"message": {"message": text, "extraInfo": extra, "errorCode": code}})
    return status
