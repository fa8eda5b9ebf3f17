"""Whether another process of this machine still runs."""

from __future__ import annotations

import os
from pathlib import Path


def has_ended(pid: int) -> bool:
    """Whether a process has ended.

    On Linux a process whose parent has not yet asked how it ended counts as ended, though it is still listed in /proc.
    Without /proc it counts as running until its parent has asked.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return Path("/proc/self").exists() or not _is_listed(pid)
    except OSError:  # this process may not look at it, so it exists
        return False
    return status.rpartition(b")")[2].split()[0] in (b"Z", b"X")


def _is_listed(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
