"""Is EFA, AWS' network card for collectives, there when it is asked for? Without it NCCL silently goes over TCP.

`fi_info` of libfabric asks the card itself. It comes with AWS' EFA installer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cclm.errors import NodeError, UserError

_PROVIDER = "FI_PROVIDER"
_INSTALLED = "/opt/amazon/efa/bin"
_SECONDS = 30.0


def is_efa_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment asks for EFA: FI_PROVIDER=efa, which the named resources with EFA set."""
    return "efa" in environment.get(_PROVIDER, "").lower().split(",")


def check_efa(devices: Path = Path("/dev/infiniband")) -> str:
    """libfabric finds an EFA card that is ready.

    Args:
        devices: where the card's device files are.

    Returns:
        How many cards there are.

    Raises:
        UserError: the container has no card, or the image no libfabric.
        NodeError: there is a card that does not work.
    """
    cards = sorted(path.name for path in devices.glob("uverbs*"))
    if not cards:
        raise UserError(
            f"{_PROVIDER} asks for EFA, but {devices} has no card; ask for vpc.amazonaws.com/efa, or unset {_PROVIDER}"
        )
    program = shutil.which("fi_info") or shutil.which("fi_info", path=_INSTALLED)
    if program is None:
        raise UserError(
            f"{_PROVIDER} asks for EFA, but the image has no fi_info of libfabric; use an image with AWS' EFA "
            f"installer, or unset {_PROVIDER}"
        )
    try:
        done = subprocess.run(
            [program, "-p", "efa", "-t", "FI_EP_RDM"], capture_output=True, text=True, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise NodeError(f"fi_info does not answer within {_SECONDS:.0f} s; use another machine") from None
    if done.returncode or "provider: efa" not in done.stdout:
        lines = (done.stderr + done.stdout).strip().splitlines()
        why = lines[0] if lines else f"exit code {done.returncode}"
        raise NodeError(
            f"libfabric cannot use the EFA card of this machine ({', '.join(cards)}): {why}; see to the EFA driver and "
            "the device plugin, or use another machine"
        )
    return f"EFA with {len(cards)} card{'s' if len(cards) > 1 else ''}"
