"""What cannot become a job, said in one sentence before a cluster is asked for anything."""

from __future__ import annotations

import re
from functools import partial

from torchx.specs import AppDef, Role

from cclm.errors import UserError
from k8s import launch_command
from k8s.launch_command import LaunchCommand
from k8s.resources import EFA, INSTANCE_TYPE, MACHINES
from k8s.setting_checks import check_settings
from k8s.settings import JobSettings
from k8s.storage import storage_of
from k8s.trainjob import BEYOND_PATCHES

_OF_OPERATOR = re.compile(r"PET_.*|MASTER_ADDR|MASTER_PORT|WORLD_SIZE|RANK")
"""Variables that training operators set, after ours, so that ours would be without effect."""
_MAX_PORT = 65535
_IMAGE = re.compile(
    r"([A-Za-z0-9.-]+(:\d+)?/|\[[0-9a-fA-F:]+\](:\d+)?/)?"  # registry
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"  # name
    r"(:\w[\w.-]{0,127})?(@[A-Za-z0-9+._-]+:[0-9a-fA-F]{32,})?"
)
"""As the reference of an image is defined (distribution/reference)."""


_SECRET = re.compile(r".*(SECRET|SECRET_ACCESS_KEY|SESSION_TOKEN|PASSWORD|PASSWD|API_KEY|API_TOKEN)|HF_TOKEN", re.I)
"""Variables whose values are secrets by custom. A manifest can be read by all who may see the job."""


def check(app: AppDef, settings: JobSettings) -> None:
    """Refuse an application that no job can be made of, and run options that contradict it or each other.

    Raises:
        UserError: says what, and what to do.
    """
    if len(app.roles) != 1:
        names = ", ".join(role.name for role in app.roles) or "none"
        raise UserError(
            f"{app.name} has {len(app.roles)} roles ({names}); a job on Kubernetes has one role, whose pods all do the "
            "same"
        )
    (role,) = app.roles
    check_settings(settings)
    _check_image(role.image)
    _check_size(role)
    _check_backend(role, settings)
    _check_environment(role, settings)
    _check_queue(settings)
    _check_rights(role, settings)
    _check_devices(role, settings)
    launched = launch_command.read(role)
    _check_ports(role, settings, launched)
    if launched is not None:
        _check_grace(launched, settings)
        _check_batches(role, launched)


def _check_image(image: str) -> None:
    """A tag or a digest says which image is meant. Without one it is `latest`, which changes during a run."""
    if not image or image.startswith("<"):
        raise UserError("the job has no image; give --image REGISTRY/NAME:TAG")
    if re.search(r"\s", image):
        raise UserError(f"image {image}: a reference of an image has no spaces")
    if not _IMAGE.fullmatch(image):
        raise UserError(
            f"image {image} is no reference of an image: write REGISTRY/NAME:TAG, with a name in lower-case letters, "
            "digits and . _ - /, or REGISTRY/NAME@sha256:DIGEST"
        )
    if "@" not in image and ":" not in image.rpartition("/")[2]:
        raise UserError(
            f"image {image} has no tag, so a pod that is replaced later could run another one; give {image}:TAG"
        )


def _check_size(role: Role) -> None:
    least = role.num_replicas if role.min_replicas is None else role.min_replicas
    if not 1 <= least <= role.num_replicas:
        raise UserError(f"{least} to {role.num_replicas} nodes: the least come first, and are 1 at least (-j 1:2x8)")


def _check_backend(role: Role, settings: JobSettings) -> None:
    if settings.backend != "trainjob":
        return
    if role.min_replicas is not None and role.min_replicas < role.num_replicas:
        raise UserError(
            f"backend=trainjob has a fixed size, as Trainer v2 cannot grow or shrink a job; write "
            f"-j {role.num_replicas}x... instead of {role.min_replicas}:{role.num_replicas}x..., or leave "
            "backend=pytorchjob"
        )
    if not settings.restart_pods:
        raise UserError("run option restart_pods=false: with backend=trainjob the runtime says how often pods start")
    for option in BEYOND_PATCHES:
        if getattr(settings, option):
            raise UserError(
                f"run option {option}: a TrainJob cannot set this on the runtime it refers to; have the runtime "
                f"{settings.runtime} set it, or leave backend=pytorchjob"
            )


def _check_environment(role: Role, settings: JobSettings) -> None:
    for name in [*role.env, *settings.secret_env]:
        if _OF_OPERATOR.fullmatch(name):
            raise UserError(f"variable {name} is set by the training operator; leave it out")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name):
            raise UserError(f"variable {name}: a name has letters, digits and _, and no digit first")
    for name in role.env:
        if _SECRET.fullmatch(name):
            raise UserError(
                f"variable {name} is a secret, and its value would stand in the manifest; keep it in a Secret of the "
                f"cluster and name that, as run option secret_env={name}:SECRET/KEY or secrets=SECRET"
            )
    twice = sorted(set(role.env) & set(settings.secret_env))
    if twice:
        raise UserError(f"variable {twice[0]} comes from the job's env and from run option secret_env; leave one out")


def _check_queue(settings: JobSettings) -> None:
    if settings.queue is None:
        for name in ("kueue_priority", "kueue_required_topology", "kueue_preferred_topology"):
            if getattr(settings, name) is not None:
                raise UserError(f"run option {name} is Kueue's, and needs the queue: add queue=LOCALQUEUE")
    if settings.kueue_required_topology and settings.kueue_preferred_topology:
        raise UserError("run options kueue_required_topology and kueue_preferred_topology: give one of them")
    if not settings.gang and (settings.gang_queue or settings.gang_timeout is not None):
        raise UserError("run options gang_queue and gang_timeout need gang=true")


def _check_rights(role: Role, settings: JobSettings) -> None:
    storage = storage_of(role, settings)
    if not settings.restricted:
        return
    if settings.run_as_user == 0:
        raise UserError("run option run_as_user=0 is root, which restricted=true excludes; add restricted=false")
    if settings.ipc_lock:
        raise UserError(
            "run option ipc_lock=true adds a capability, which restricted=true excludes; add restricted=false"
        )
    if storage.has_devices:
        raise UserError("a mount with type=device needs a privileged container; add run option restricted=false")
    if settings.host_network:
        raise UserError("run option host_network=true goes beyond restricted=true; add restricted=false")


def _check_devices(role: Role, settings: JobSettings) -> None:
    kind = role.resource.capabilities.get(INSTANCE_TYPE)
    machine = next((machine for machine in MACHINES.values() if machine.instance_type == kind), None)
    if machine is None:
        return
    asked = role.resource.devices.get(EFA, 0) if settings.efa is None else settings.efa
    if asked > machine.efa:
        has = f"{machine.efa} EFA devices" if machine.efa else "no EFA devices"
        raise UserError(f"run option efa={asked}: a {kind} has {has}; leave the option out")


def _check_ports(role: Role, settings: JobSettings, launched: LaunchCommand | None) -> None:
    text = None if launched is None else launched.options.metrics_port
    if text is not None and str(text) != str(settings.metrics_port):
        raise UserError(
            f"the run serves its metrics on port {text}, and run option metrics_port is {settings.metrics_port}; say "
            "it in the run option alone"
        )
    _check_distinct_ports(
        {**role.port_map, "metrics": settings.metrics_port} if settings.metrics_port else role.port_map
    )


def _check_distinct_ports(ports: dict[str, int]) -> None:
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if not 0 < port <= _MAX_PORT:
            raise UserError(f"port {name}={port}: a port is a number from 1 to {_MAX_PORT}")
        if port in seen:
            raise UserError(f"port {port} is used twice, for {seen[port]} and {name}; choose another one")
        seen[port] = name


def _check_grace(launched: LaunchCommand, settings: JobSettings) -> None:
    """The launcher ends its processes after its own time, and needs a moment more to say why they ended."""
    own = launched.options.shutdown_timeout
    if settings.grace_seconds <= own:
        raise UserError(
            f"run option grace_seconds={settings.grace_seconds} does not exceed the {own} s that cclm launch gives "
            f"processes to save (--shutdown-timeout), so pods would be killed in the middle; make it {2 * own}"
        )


def _check_batches(role: Role, launched: LaunchCommand) -> None:
    """Each number of nodes to which the run may come must divide the batch, where the config is at hand.

    The config's path is one inside the image. What lies here at the same path is taken for the same file.
    """
    from cclm.cli.launch import check_processes
    from cclm.launch.launcher import check_world_sizes

    each = launched.processes_per_node
    if each is None:
        return
    # Batch sizes of published configs are per process, and are multiplied by the whole number of them.
    parts = launched.parts(role.num_replicas * each)
    least = role.num_replicas if role.min_replicas is None else role.min_replicas
    check_world_sizes(partial(check_processes, parts), least, role.num_replicas, each)
