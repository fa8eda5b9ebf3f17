"""A process that the kernel killed for lack of memory is told from one that somebody killed."""

from pathlib import Path

import pytest

from cclm.launch.causes import Cause, Failure, describe
from cclm.launch.memory_limit import MemoryLimit

KILLED = Failure(Cause.KILLED, "was killed by SIGKILL, mostly a sign of too little memory", rank=1)


@pytest.mark.parametrize("content", ["low 0\noom 1\noom_kill {}\noom_group_kill 0\n", "under_oom 0\noom_kill {}\n"])
def test_a_kill_at_the_limit_is_said(tmp_path: Path, content: str) -> None:
    events = tmp_path / "events"
    events.write_text(content.format(3))
    limit = MemoryLimit([tmp_path / "none", events])
    assert limit.explain(KILLED) == KILLED
    events.write_text(content.format(4))
    assert limit.explain(Failure(Cause.BUG, "KeyError")) == Failure(Cause.BUG, "KeyError")
    events.write_text(content.format(5))
    said = describe(limit.explain(KILLED))
    assert said.startswith("rank 1 was killed by SIGKILL at the memory limit of its container; raise")
    assert limit.explain(KILLED) == KILLED  # the next one was killed in another way


def test_without_such_a_count_nothing_is_said(tmp_path: Path) -> None:
    assert MemoryLimit([tmp_path / "none"]).explain(KILLED) == KILLED
