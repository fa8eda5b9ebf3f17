"""The command line of `python -m tests.cluster`; needs no cluster."""

from __future__ import annotations

import pytest

from tests.cluster import __main__ as command
from tests.cluster.cluster import Cluster
from tests.cluster.common import ClusterError


@pytest.mark.parametrize(
    "words",
    [
        ["--with", "kueue,jobset", "--with", "trainer"],
        ["--with", "kueue", "jobset", "trainer"],
        ["--with", "kueue", "--with", "jobset", "--with", "trainer"],
        ["--with", "kueue,", "jobset,trainer", "--nodes", "2"],
    ],
)
def test_options_may_be_separated_by_commas_and_spaces(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(command, "_up", lambda cluster, nodes, options: asked.append(options))
    assert command.main(["--name", "none", "up", *words]) == 0
    assert asked == [["kueue", "jobset", "trainer"]]


def test_an_option_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cluster, "check", lambda *_: pytest.fail("looked at the machine first"))
    with pytest.raises(ClusterError, match="there is no option quue; there are training-operator, "):
        command.main(["--name", "none", "up", "--with", "kueue,quue"])
