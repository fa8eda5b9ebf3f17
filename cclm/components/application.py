"""A command of cclm on the nodes of a job, as a TorchX application."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from importlib import metadata

import torchx.specs as specs

from cclm.components.arguments import Job
from cclm.errors import UserError

_ROLE = "cclm"
_CORES, _MEGABYTES = 2, 4096
"""Default resources of a node, enough for the demo."""
_OWN_MACHINE = "localhost:0"
"""Where the only node of a job meets itself: any free port."""


def build_app(command: Sequence[str], job: Job, *, is_published: bool = False) -> specs.AppDef:
    """`cclm launch ... -- COMMAND` on all nodes of a job.

    A shell starts it, since only on the node is it known where the nodes meet: TorchX's schedulers say it in a variable
    whose name they put in the place of a macro, and training operators in PET_RDZV_ENDPOINT.

    Args:
        command: a command of cclm, with its arguments.
        job: where it runs.
        is_published: whether it trains or tests a published model, which needs GPUs. Where nothing is said of the
            nodes, their size is then left to the scheduler.

    Raises:
        UserError: the job asks for what there is not.
    """
    resource = _resource(job, is_published)
    nodes = job.j
    processes = max(1, resource.gpu) if nodes.processes is None else nodes.processes
    if 0 < resource.gpu < processes:
        raise UserError(
            f"-j asks for {processes} processes on each node, which has {resource.gpu} GPUs; each process needs "
            "a GPU of its own"
        )
    endpoint = shlex.quote(_OWN_MACHINE)
    if nodes.most > 1:
        # $$ is a $ that TorchX leaves for the shell.
        endpoint = f'"$${{PET_RDZV_ENDPOINT:-$${{{specs.macros.rank0_env}:-localhost}}:{job.rdzv_port}}}"'
    options = ["--rdzv-backend", "c10d", "--rdzv-id", specs.macros.app_id, "--nnodes", nodes.range]
    options += ["--nproc-per-node", str(processes), "--max-restarts", str(job.max_restarts)]
    options += [] if job.metrics_port is None else ["--metrics-port", str(job.metrics_port)]
    options += [] if job.preflight else ["--no-preflight"]
    line = f"exec cclm launch --rdzv-endpoint {endpoint} {' '.join(options)} -- {shlex.join(command)}"
    return specs.AppDef(
        name=job.name,
        roles=[
            specs.Role(
                name=_ROLE,
                image=job.image,
                entrypoint="bash",
                args=["-c", line],
                env=dict(job.env),
                num_replicas=nodes.most,
                min_replicas=nodes.least,
                resource=resource,
                port_map={"c10d": job.rdzv_port},
                mounts=_mounts(job.mounts),
            )
        ],
    )


def _resource(job: Job, is_published: bool) -> specs.Resource:
    """What each node of the job needs."""
    if job.h is None:
        if is_published and job.cpu is None and job.gpu is None and job.memMB is None:
            return specs.NULL_RESOURCE
        return specs.resource(cpu=job.cpu or _CORES, gpu=job.gpu or 0, memMB=job.memMB or _MEGABYTES)
    try:
        return specs.resource(h=job.h)
    except KeyError:
        registered = sorted(each.name for each in metadata.entry_points(group="torchx.named_resources"))
        near = difflib.get_close_matches(job.h, registered, n=1)
        advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(registered)}, and TorchX's own"
        raise UserError(f"-h {job.h}: there is no named resource of this name; {advice}") from None


def _mounts(options: Sequence[str]) -> list[specs.BindMount | specs.VolumeMount | specs.DeviceMount]:
    """The mounts that `--mounts` describes. Raises UserError if it cannot be read."""
    try:
        mounts: list[specs.BindMount | specs.VolumeMount | specs.DeviceMount] = specs.parse_mounts(list(options))
    except (KeyError, ValueError) as error:
        problem = f"{error.args[0]} is missing" if error.args[0] in ("src", "dst") else error.args[0]
        raise UserError(
            f"--mounts {','.join(options)}: {problem}; give type=bind,src=/host,dst=/job[,readonly] or "
            "type=volume,src=CLAIM,dst=/job[,readonly]"
        ) from None
    return mounts
