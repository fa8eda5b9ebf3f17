"""A run of cclm as TorchX's own distributed application, with `cclm launch` in the place of torchrun. No torch."""

from __future__ import annotations

from torchx.components import dist
from torchx.specs import AppDef

_TORCHRUN, _MODULE = "torchrun ", " --role '' -m cclm "
"""The first word of torchx's command line, and the words between torchrun's options and ours."""


def build_app(*command: str, max_restarts: int, **settings: object) -> AppDef:
    """`cclm COMMAND` on all nodes of an application.

    Args:
        command: a command of cclm, with its arguments.
        max_restarts: how often each node starts its processes again before it asks the scheduler.
        settings: other arguments of torchx's `dist.ddp`.

    Raises:
        RuntimeError: torchx starts applications in another way than the version that pyproject.toml names.
    """
    # tee=0: the first process reports, and the others print only when they fail.
    app: AppDef = dist.ddp(*command, m="cclm", tee=0, **settings)
    (role,) = app.roles
    shell_option, line = role.args
    if not line.startswith(_TORCHRUN) or _MODULE not in line:
        raise RuntimeError(f"this version of torchx starts applications in another way: {line}")
    options, _, arguments = line.removeprefix(_TORCHRUN).partition(_MODULE)
    role.args = [shell_option, f"exec cclm launch {options} --max-restarts {max_restarts} -- {arguments}"]
    role.env.pop("LOGLEVEL", None)  # torch's agent logs nothing, as the launcher says what happens
    return app
