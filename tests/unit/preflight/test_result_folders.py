"""Folders that take no files are found out before a run begins."""

from pathlib import Path

import pytest

from cclm.errors import NodeError, UserError
from cclm.preflight.result_folders import check_output, check_writable

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


def test_a_check_makes_no_folder(tmp_path):
    check_output(str(tmp_path / "a" / "b"), "output_dir")
    assert list(tmp_path.iterdir()) == []


def test_a_check_of_a_folder_that_takes_no_files(mount, tmp_path):
    folder = mount("ro")
    with pytest.raises(
        UserError, match=rf"^output_dir {folder}/run cannot be written to \(Read-only file system\); make"
    ):
        check_output(f"{folder}/run", "output_dir")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot be a folder, since {tmp_path}/file is a file"):
        check_output(f"{tmp_path}/file/run", "output_dir")


def test_a_full_disk_is_the_machines(mount):
    folder = mount("size=64k")
    with pytest.raises(OSError, match="No space left"):
        (folder / "all").write_bytes(bytes(1 << 20))
    with pytest.raises(NodeError, match=rf"^output_dir {folder} cannot be written to on this machine \(No space left"):
        check_output(str(folder), "output_dir")


def test_a_store():
    check_output("memory://runs/one", "output_hdfs")
    with pytest.raises(UserError, match="^nosuchscheme://.* is no store that is known here"):
        check_output("nosuchscheme://runs/one", "output_hdfs")
