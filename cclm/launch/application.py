"""A run of ours as TorchX's own distributed application, with `cclm launch` in the place of torchrun. No torch."""

from __future__ import annotations

from torchx.components import dist
from torchx.specs import AppDef

_TORCHRUN, _MODULE = "torchrun ", " --role '' -m cclm "


def build_app(*command: str, max_restarts: int, **settings: object) -> AppDef:
    """`cclm COMMAND` on all nodes of an application.

    Args:
        command: of cclm, with its arguments.
        max_restarts: on each node, without asking the scheduler.
        settings: of torchx's `dist.ddp`.
    """
    made = dist.ddp(*command, m="cclm", tee=0, **settings)  # the first process reports; others speak when they fail
    (role,) = made.roles
    shell, line = role.args
    if not line.startswith(_TORCHRUN) or _MODULE not in line:
        raise RuntimeError(f"this version of torchx starts applications in another way: {line}")
    options, _, rest = line.removeprefix(_TORCHRUN).partition(_MODULE)
    role.args = [shell, f"exec cclm launch {options} --max-restarts {max_restarts} -- {rest}"]
    role.env.pop("LOGLEVEL", None)  # the launcher says what happens
    return made
