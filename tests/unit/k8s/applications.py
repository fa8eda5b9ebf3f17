"""Applications as TorchX's components make them."""

from typing import Any

from torchx.specs import AppDef, Resource, Role

CPU = Resource(cpu=2, gpu=0, memMB=1000)
EIGHT_GPUS = Resource(cpu=88, gpu=8, memMB=1_000_000, devices={"vpc.amazonaws.com/efa": 4})


def application(*args: str, name: str = "cclm-pretrain", **role: Any) -> AppDef:
    """A run of cclm with two pods, if nothing else is said; further fields of the role as keywords."""
    fields = {
        "name": "cclm",
        "image": "registry/cclm:1",
        "entrypoint": "cclm",
        "args": list(args or ("launch", "--nproc-per-node", "1", "--", "pretrain", "configs/demo/pretrain.yaml")),
        "num_replicas": 2,
        "resource": CPU,
        **role,
    }
    return AppDef(name=name, roles=[Role(**fields)])
