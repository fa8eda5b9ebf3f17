"""The next TorchX, with its newer client, starts, shows, resizes, cancels and deletes a run as 0.7.0 does."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tests import torchx_nightly
from tests.cluster import runs
from tests.cluster.common import wait_for
from tests.cluster.demo_run import WARM
from tests.cluster.runs import Workbench
from tests.cluster.space import Space

pytestmark = pytest.mark.cluster


def test_the_next_torchx_has_the_same_commands(space: Space, bench: Workbench) -> None:
    bench = dataclasses.replace(bench, packages=torchx_nightly.folder())
    assert torchx_nightly.VERSION in bench.torchx(space, "--version").out
    run = runs.start(space, bench, nodes="1:2x1", steps=100_000)
    with run:
        run.wait_step(WARM)
        status = bench.torchx(space, "status", run.handle)
        assert status.code == 0 and "State: RUNNING" in status.out, status
        assert run.handle in bench.torchx(space, "list", "-s", "kubernetes").out
        log = bench.torchx(space, "log", "--since", "1h", run.handle)
        assert log.code == 0 and re.search(r"step +1/100000 ", log.out), log
        assert bench.torchx(space, "resize", run.handle, "1").code == 0
        wait_for(lambda: len(run.pods()) == 1, what="the end of one pod", timeout=120, every=1, why=run.why)
        run.wait_step(run.progress.step + 1)
        assert bench.torchx(space, "cancel", run.handle).code == 0
        wait_for(lambda: not run.pods(), what="the end of all pods", timeout=120, every=1, why=run.why)
        assert "State: CANCELLED" in bench.torchx(space, "status", run.handle).out
        assert bench.torchx(space, "delete", run.handle).code == 0
        assert run.job() is None
        unknown = bench.torchx(space, "status", run.handle)
        assert "Traceback" not in unknown.err
