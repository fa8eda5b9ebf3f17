"""Named resources: machines with GPUs of the clouds, as much of each as a pod can really get.

    torchx run -s kubernetes cclm.pretrain -h a100x8_p4d ...

What a machine has is not what a pod gets. The system and the kubelet keep a part, and each node runs a few pods of its
own (network, device plugins, monitoring). Therefore a pod asks for 92 % of the CPUs and 95 % of the memory that the
system's part leaves. What it writes to /dev/shm counts as memory, too, and is taken off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torchx.specs import Resource

GPU = "nvidia.com/gpu"
EFA = "vpc.amazonaws.com/efa"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
GKE_ACCELERATOR = "cloud.google.com/gke-accelerator"
SHARED_MEMORY_OF_GPU = 8 * 2**30
"""Bytes of /dev/shm for each GPU, where the run option `shm_size` says nothing else."""

_SHARE_OF_CPU = 0.92
_SHARE_OF_MEMORY = 0.95
_GIBIBYTE = 1024
"""In MiB."""
_MEGABYTE = 10**6
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Machine:
    """A machine type of a cloud, and what is left of it for pods."""

    instance_type: str
    gpus: int
    millicpu: int
    """CPUs that its node gives to pods, in thousandths."""
    memory: int
    """Memory that its node gives to pods, MiB."""
    efa: int = 0
    """EFA devices."""
    accelerator: str | None = None
    """GKE's name of its GPUs, by which GKE finds a node pool, or makes one."""

    @property
    def resource(self) -> Resource:
        """What a pod that has the machine for itself asks for."""
        shared = SHARED_MEMORY_OF_GPU * self.gpus
        capabilities = {INSTANCE_TYPE: self.instance_type}
        if self.accelerator is not None:
            capabilities[GKE_ACCELERATOR] = self.accelerator
        return Resource(
            cpu=int(self.millicpu * _SHARE_OF_CPU / 1000),
            gpu=self.gpus,
            memMB=int(self.memory * _MEBIBYTE * _SHARE_OF_MEMORY - shared) // _MEGABYTE,
            capabilities=capabilities,
            devices={EFA: self.efa} if self.efa else {},
        )


# EC2: what Karpenter's reference of instance types says is left (karpenter.sh/docs/reference/instance-types).
# GKE: the machine's CPUs and memory less what GKE's documentation says that it reserves, and 1 % for the kernel.
MACHINES = {
    "a100x8_p4d": Machine("p4d.24xlarge", 8, 95_690, 1_082_712, efa=4),
    "a100x8_p4de": Machine("p4de.24xlarge", 8, 95_690, 1_082_712, efa=4),
    "a100x1_a2highgpu": Machine("a2-highgpu-1g", 1, 11_900, 77 * _GIBIBYTE, accelerator="nvidia-tesla-a100"),
    "a100x4_a2highgpu": Machine("a2-highgpu-4g", 4, 47_800, 322 * _GIBIBYTE, accelerator="nvidia-tesla-a100"),
    "a100x8_a2highgpu": Machine("a2-highgpu-8g", 8, 95_690, 652 * _GIBIBYTE, accelerator="nvidia-tesla-a100"),
    "a100x1_a2ultragpu": Machine("a2-ultragpu-1g", 1, 11_900, 157 * _GIBIBYTE, accelerator="nvidia-a100-80gb"),
    "a100x4_a2ultragpu": Machine("a2-ultragpu-4g", 4, 47_800, 652 * _GIBIBYTE, accelerator="nvidia-a100-80gb"),
    "a100x8_a2ultragpu": Machine("a2-ultragpu-8g", 8, 95_690, 1312 * _GIBIBYTE, accelerator="nvidia-a100-80gb"),
    "h100x1_p5": Machine("p5.4xlarge", 1, 15_890, 240_830, efa=1),
    "h100x8_p5": Machine("p5.48xlarge", 8, 191_450, 1_938_410, efa=32),
    "h100x1_a3highgpu": Machine("a3-highgpu-1g", 1, 25_800, 220 * _GIBIBYTE, accelerator="nvidia-h100-80gb"),
    "h100x4_a3highgpu": Machine("a3-highgpu-4g", 4, 103_600, 900 * _GIBIBYTE, accelerator="nvidia-h100-80gb"),
    "h100x8_a3highgpu": Machine("a3-highgpu-8g", 8, 207_300, 1809 * _GIBIBYTE, accelerator="nvidia-h100-80gb"),
    "h100x8_a3megagpu": Machine("a3-megagpu-8g", 8, 207_300, 1809 * _GIBIBYTE, accelerator="nvidia-h100-mega-80gb"),
    "h200x8_p5e": Machine("p5e.48xlarge", 8, 191_450, 1_938_410, efa=32),
    "h200x8_p5en": Machine("p5en.48xlarge", 8, 191_450, 1_937_332, efa=16),
    "h200x8_a3ultragpu": Machine("a3-ultragpu-8g", 8, 223_300, 2857 * _GIBIBYTE, accelerator="nvidia-h200-141gb"),
}
"""By the name of the resource: GPUs, their number, and the machine family."""


def cpu_small() -> Resource:
    """A CPU and 2 GB on any node, for tests and the demo world."""
    return Resource(cpu=1, gpu=0, memMB=2000)


def __getattr__(name: str) -> Callable[[], Resource]:
    """TorchX finds a named resource as a function of a module. These are all the same, but for the machine."""
    if name not in MACHINES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    machine = MACHINES[name]
    return lambda: machine.resource
