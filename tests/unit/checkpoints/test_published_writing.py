"""Writing files of the published layout."""

import pytest
import torch

from cclm.checkpoints.published import write_published_file


def test_a_full_disk_keeps_no_half_of_a_published_file(tmp_path):
    (tmp_path / "out.th.tmp").symlink_to("/dev/full")
    with pytest.raises((OSError, RuntimeError)):
        write_published_file(tmp_path / "out.th", {"weight": torch.zeros(3)}, {})
    assert [*tmp_path.iterdir()] == []
