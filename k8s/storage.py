"""What a pod mounts: shared memory, scratch space, the application's mounts, and those of the run options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from torchx.specs import BindMount, DeviceMount, Role, VolumeMount

from cclm.errors import UserError
from k8s.quantities import bytes_of, in_mebibytes
from k8s.resources import SHARED_MEMORY_OF_GPU
from k8s.settings import JobSettings

Manifest = dict[str, Any]

SHARED_MEMORY = "/dev/shm"
SCRATCH = "/tmp"
SHARED_MEMORY_WITHOUT_GPU = 512 * 2**20

_KINDS = ("pvc", "secret", "configmap", "emptydir")


@dataclass
class Storage:
    """Volumes of a pod, and where its container mounts them."""

    volumes: list[Manifest] = field(default_factory=list)
    mounts: list[Manifest] = field(default_factory=list)
    has_claims: bool = False
    """Whether a volume claim is among them, whose files a user without rights may not be able to write."""
    has_devices: bool = False
    """Whether a device of the host is among them, which only a privileged container can use."""

    def add(self, name: str, source: Manifest, path: str, read_only: bool = False) -> None:
        """Mount a volume.

        Raises:
            UserError: something else is mounted there.
        """
        if not path.startswith("/"):
            raise UserError(f"mount at {path}: write the whole path in the pod, from / on")
        if any(mount["mountPath"].rstrip("/") == path.rstrip("/") for mount in self.mounts):
            raise UserError(f"two things are mounted at {path}: leave one of them out")
        self.volumes.append({"name": name, **source})
        self.mounts.append({"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})})

    @property
    def paths(self) -> set[str]:
        """Where something is mounted."""
        return {mount["mountPath"].rstrip("/") for mount in self.mounts}


def storage_of(role: Role, settings: JobSettings) -> Storage:
    """All that a pod of this role mounts.

    Raises:
        UserError: a mount that cannot be made.
    """
    storage = Storage()
    for number, mount in enumerate(role.mounts):
        _add_mount(storage, f"mount-{number}", mount)
    for number, text in enumerate(settings.volumes):
        _add_volume(storage, f"volume-{number}", text)
    if SHARED_MEMORY not in storage.paths:
        size = in_mebibytes(shared_memory_of(role, settings))
        storage.add("dshm", {"emptyDir": {"medium": "Memory", "sizeLimit": size}}, SHARED_MEMORY)
    if SCRATCH not in storage.paths:
        storage.add("tmp", {"emptyDir": {"sizeLimit": settings.tmp_size}}, SCRATCH)
    return storage


def shared_memory_of(role: Role, settings: JobSettings) -> int:
    """Bytes of /dev/shm. What is written there counts against the memory limit. Raises UserError."""
    if settings.shm_size != "auto":
        return bytes_of(settings.shm_size, "run option shm_size")
    gpus = max(role.resource.gpu, 0)
    return SHARED_MEMORY_OF_GPU * gpus if gpus else SHARED_MEMORY_WITHOUT_GPU


def _add_mount(storage: Storage, name: str, mount: BindMount | VolumeMount | DeviceMount) -> None:
    """A mount of the application, in TorchX's terms."""
    if isinstance(mount, VolumeMount):
        storage.has_claims = True
        storage.add(name, {"persistentVolumeClaim": {"claimName": mount.src}}, mount.dst_path, mount.read_only)
    elif isinstance(mount, BindMount):
        storage.add(name, {"hostPath": {"path": mount.src_path}}, mount.dst_path, mount.read_only)
    else:
        storage.has_devices = True
        storage.add(name, {"hostPath": {"path": mount.src_path}}, mount.dst_path)


def _add_volume(storage: Storage, name: str, text: str) -> None:
    """A mount of the run option `volumes`."""
    found = re.fullmatch(r"(?P<kind>\w+)/(?P<source>[^:/]+):(?P<path>/[^:]*)(?P<read_only>:ro)?", text)
    if found is None or found["kind"] not in _KINDS:
        raise UserError(
            f"run option volumes: {text} is not KIND/NAME:PATH or KIND/NAME:PATH:ro, with KIND one of "
            f"{', '.join(_KINDS)} (for emptydir NAME is its size)"
        )
    source: Manifest
    match found["kind"]:
        case "pvc":
            storage.has_claims = True
            source = {"persistentVolumeClaim": {"claimName": found["source"]}}
        case "secret":
            source = {"secret": {"secretName": found["source"]}}
        case "configmap":
            source = {"configMap": {"name": found["source"]}}
        case _:
            bytes_of(found["source"], "run option volumes: emptydir")
            source = {"emptyDir": {"sizeLimit": found["source"]}}
    storage.add(name, source, found["path"], read_only=found["read_only"] is not None)
