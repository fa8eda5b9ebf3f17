"""URLs and paths as bytes."""

from pathlib import Path

import pytest

from cclm import storage


def test_files_of_a_folder_are_sorted_and_leftovers_of_writers_skipped(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "_SUCCESS", ".hidden", "_temporary"):
        (tmp_path / name).write_text("x")
    (tmp_path / "sub").mkdir()
    assert storage.list_files(str(tmp_path)) == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]
    assert storage.list_files(f"{tmp_path}/b.jsonl") == [f"{tmp_path}/b.jsonl"]
    with pytest.raises(FileNotFoundError):
        storage.list_files(f"{tmp_path}/none")


def test_a_file_added_after_a_listing_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    assert len(storage.list_files(str(tmp_path))) == 1
    (tmp_path / "b").write_text("x")
    assert len(storage.list_files(str(tmp_path))) == 2


def test_a_name_that_no_file_can_have_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "loop").symlink_to("loop")
    assert storage.is_file(f"{tmp_path}/f") and not storage.is_file(str(tmp_path))
    for name in ("absent", "f/below", "zero\0byte", "half\ud800pair", "x" * 300, "loop"):
        assert not storage.is_file(f"{tmp_path}/{name}"), name


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_ranges_are_read_whole_or_not_at_all(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    url = f"{scheme}{tmp_path}/f"
    assert storage.read_range(url, 2, 5) == b"234"
    assert storage.read_bytes(url) == b"0123456789"
    assert storage.size(url) == 10
    assert storage.modified(url) == (tmp_path / "f").stat().st_mtime
    assert storage.exists(url) and not storage.exists(url + "x")
    with pytest.raises(storage.ShortReadError, match="8..12"):
        storage.read_range(url, 8, 12)


def test_other_stores_go_through_fsspec() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe({"/data/p0": b"abcdef", "/data/_SUCCESS": b""})
    assert storage.list_files("memory://data") == ["memory://data/p0"]
    assert storage.read_range("memory://data/p0", 1, 3) == b"bc"
    assert storage.size("memory://data/p0") == 6
    created = fsspec.filesystem("memory").info("/data/p0")["created"]
    assert storage.modified("memory://data/p0") == created.timestamp()
    with pytest.raises(storage.ShortReadError):
        storage.read_range("memory://data/p0", 4, 9)


def test_atomic_writes_replace_and_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f"
    storage.write_atomic(str(path), b"one")
    storage.write_atomic(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["f"]
    folder = tmp_path / "taken"
    (folder / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        storage.write_atomic(str(folder), b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "taken"]
