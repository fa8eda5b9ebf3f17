"""Names of jobs."""

import pytest

from cclm.errors import UserError
from k8s.names import check_name, job_name, label_value, worker_name


def test_names_are_unique_and_short_enough() -> None:
    names = {job_name("cclm-pretrain", 1000) for _ in range(50)}
    assert len(names) == 50
    longest = job_name("a" * 46, 1000)
    assert len(worker_name(longest, 999)) == 63
    with pytest.raises(UserError, match="too long .* 46 characters at most"):
        job_name("a" * 47, 1000)
    assert job_name("torchx_utils_echo", 1).startswith("torchx-utils-echo-")


@pytest.mark.parametrize("name", ["My-Run", "1run", "run-", "", "run.x", "run x", "läufer"])
def test_what_kubernetes_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="DNS-1035"):
        job_name(name, 2)
    with pytest.raises(UserError, match="DNS-1035"):
        check_name(name, 2)


def test_label_values() -> None:
    assert label_value("a b/c.") == "a-b-c"
    assert len(label_value("x" * 100)) == 63
