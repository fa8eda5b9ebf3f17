"""Whether the kernel killed processes of this container for lack of memory. No torch.

The container's own state says OOMKilled only if its first process was killed. The launcher lives on when one of its
processes is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cclm.launch.causes import Cause, Failure

_COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
"""Of cgroups version 2 and 1, as a container sees its own."""
_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


class MemoryLimit:
    """Notices kills that come after it was made.

    Args:
        files: where the kernel counts them; the first one that can be read is used.
    """

    def __init__(self, files: Sequence[Path] = _COUNTS) -> None:
        self._files = files
        self._known = self._kills()

    def explain(self, failure: Failure) -> Failure:
        """`failure`, with the reason in words if a process was killed at the memory limit since the last look."""
        before, self._known = self._known, self._kills()
        if failure.cause is not Cause.KILLED or self._known <= before:
            return failure
        advice = "raise the memory limit, or lower the batch sizes or the number of loader processes"
        return replace(failure, message=f"was killed by SIGKILL at the memory limit of its container; {advice}")

    def _kills(self) -> int:
        for path in self._files:
            try:
                if match := _COUNT.search(path.read_text()):
                    return int(match[1])
            except (OSError, ValueError):
                continue
        return 0
