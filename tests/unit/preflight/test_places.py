"""Folders that take no files are found out before a model is built."""

from pathlib import Path

import pytest

from cclm.errors import UserError
from cclm.preflight.places import check_writable

# Folders: tests may run as root, who may write anywhere; /proc takes no files from anybody.


def test_a_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "b", "output_dir")
    check_writable(tmp_path / "a" / "b", "output_dir")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("below", ["", "run", "run/one"])
def test_a_file_is_no_folder(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"^output_dir .*/file.* cannot be a folder, since {tmp_path}/file is a file"):
        check_writable(tmp_path / "file" / below, "output_dir")


@pytest.mark.parametrize("folder", ["/proc", "/proc/zz", "/proc/zz/run"])
def test_a_folder_that_takes_no_files(folder):
    with pytest.raises(
        UserError, match=rf"^output_dir {folder} cannot be written to \(.+\); make it writable or choose"
    ):
        check_writable(Path(folder), "output_dir")
