"""Shared memory of a container's size, and what a config needs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cclm.errors import UserError
from cclm.preflight.shared_memory import check_shared_memory


def test_what_containers_have_is_too_little(mount: Callable[[str], Path]) -> None:
    folder = mount("size=64m")
    assert check_shared_memory(64 << 20, 2, folder) == ""
    with pytest.raises(UserError, match=rf"^{folder} has 64 MiB left, but .* 2 training processes need 65 MiB"):
        check_shared_memory(65 << 20, 2, folder)
    (folder / "of another process").write_bytes(bytes(32 << 20))
    with pytest.raises(UserError, match="has 32 MiB left"):
        check_shared_memory(64 << 20, 2, folder)


def test_a_system_without_it(tmp_path: Path) -> None:
    assert check_shared_memory(1 << 50, 1, tmp_path / "absent") == ""
