"""What the adapter promises, on each real store and on a folder."""

import os
import threading
from pathlib import Path

import pytest

from cclm import storage
from tests.stores.peer import Peer
from tests.stores.store import RunningStore

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(any_store: RunningStore) -> str:
    return any_store.new_folder()


def test_what_is_written_is_read(folder: str, tmp_path: Path) -> None:
    url = storage.join(folder, "with space", "ünï#co?de=1.bin")  # characters that URL parsers cut at
    assert not storage.exists(url) and not storage.is_file(url) and not storage.is_folder(folder)
    for function in (storage.size, storage.read_bytes, storage.fingerprint):
        with pytest.raises(FileNotFoundError):
            function(url)
    with pytest.raises(FileNotFoundError):
        storage.read_range(url, 0, 1)
    storage.write_atomic(url, b"0123456789")
    assert storage.exists(url) and storage.exists(folder)
    assert storage.is_file(url) and not storage.is_file(folder)
    assert storage.is_folder(folder) and not storage.is_folder(url)
    assert storage.size(url) == 10 and storage.read_bytes(url) == b"0123456789"
    assert storage.read_range(url, 2, 5) == b"234"
    assert storage.read_ranges(url, [(8, 10), (0, 1), (4, 4)]) == [b"89", b"0", b""]
    for start, end in ((8, 12), (10, 11), (50, 60)):
        with pytest.raises(storage.ShortReadError, match=f"{start}..{end}"):
            storage.read_range(url, start, end)
    storage.write_atomic(storage.join(folder, "empty"), b"")
    assert storage.read_bytes(storage.join(folder, "empty")) == b""
    before = storage.fingerprint(url)
    assert before == storage.fingerprint(url) and before.size == 10
    storage.write_atomic(url, b"98765432100")  # a local disk may tell no other time so soon
    assert storage.fingerprint(url) != before
    storage.download(url, str(tmp_path / "new" / "copy"))
    assert (tmp_path / "new" / "copy").read_bytes() == b"98765432100"
    with pytest.raises(FileNotFoundError):
        storage.download(url + "no", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_listing_is_never_stale(any_store: RunningStore, peer: Peer) -> None:
    folder = any_store.new_folder()
    if any_store.name in ("local", "hdfs"):
        with pytest.raises(FileNotFoundError):
            storage.list_entries(folder)
    else:
        assert storage.list_entries(folder) == []
    with pytest.raises(FileNotFoundError):
        storage.list_files(folder)
    for count in range(1, 4):
        # By another process, so that no cache of this one can know of it.
        peer(storage.write_atomic, storage.join(folder, f"part-{count}"), b"x" * count)
        assert [(e.name, e.size) for e in storage.list_entries(folder)] == [
            (f"part-{n}", n) for n in range(1, count + 1)
        ]
        assert len(storage.list_files(folder)) == count
    peer(storage.write_atomic, storage.join(folder, "_SUCCESS"), b"x")
    peer(storage.write_atomic, storage.join(folder, "sub", "part-9"), b"x")
    assert storage.list_files(folder) == [storage.join(folder, f"part-{n}") for n in range(1, 4)]
    assert storage.list_files(storage.join(folder, "part-1")) == [storage.join(folder, "part-1")]
    assert [e.name for e in storage.list_entries(folder) if e.is_folder] == ["sub"]
    storage.delete(storage.join(folder, "part-2"))
    storage.delete(storage.join(folder, "part-2"))  # absent is fine
    assert [e.name for e in storage.list_entries(folder)] == ["_SUCCESS", "part-1", "part-3", "sub"]
    storage.delete_folder(folder)
    storage.delete_folder(folder)
    assert not storage.exists(folder)
    with pytest.raises(ValueError, match="whole store"):
        storage.delete_folder(folder.split("://")[0] + "://" + folder.split("/")[2] if "://" in folder else "/")


def test_large_files_arrive_whole(folder: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    content = os.urandom(40 << 20)  # more than one part, block or piece of everything
    source.write_bytes(content)
    url = storage.join(folder, "large")
    storage.put_file(str(source), url)
    assert storage.size(url) == len(content)
    assert storage.read_bytes(url) == content
    storage.download(url, str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == content
    source.write_bytes(b"shorter")
    storage.put_file(str(source), url)
    assert storage.read_bytes(url) == b"shorter"
    with pytest.raises(FileNotFoundError):
        storage.put_file(str(tmp_path / "none"), url)
    assert [entry.name for entry in storage.list_entries(folder)] == ["large"]


def test_of_many_writers_of_a_new_file_one_wins(folder: str) -> None:
    for attempt in range(3):
        url = storage.join(folder, f"manifest-{attempt}")
        won: list[bytes] = []
        ready = threading.Barrier(6)

        def write(data: bytes, url: str = url, won: list[bytes] = won, ready: threading.Barrier = ready) -> None:
            ready.wait()
            try:
                storage.write_new(url, data)
                won.append(data)
            except FileExistsError:
                pass

        threads = [threading.Thread(target=write, args=(bytes([65 + n]) * 50_000,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1 and storage.read_bytes(url) == won[0]
        with pytest.raises(FileExistsError):
            storage.write_new(url, b"late")
        assert storage.read_bytes(url) == won[0]


def test_readers_see_the_old_or_the_new_file(folder: str) -> None:
    url = storage.join(folder, "state")
    versions = [bytes([65 + n]) * (3_000 + n) for n in range(7)]
    storage.write_atomic(url, versions[0])
    enough = threading.Event()

    def replace() -> None:
        while not enough.is_set():
            for version in versions:
                storage.write_atomic(url, version)

    writer = threading.Thread(target=replace)
    writer.start()
    seen = 0
    try:
        while seen < 20 and writer.is_alive():
            try:
                assert storage.read_bytes(url) in versions
                seen += 1
            except storage.ShortReadError:  # replaced between its size and its bytes: an error, never a mixture
                pass
    finally:
        enough.set()
        writer.join()
    assert seen == 20 and storage.read_bytes(url) == versions[-1]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_loader_processes_read_after_their_parent_did(
    method: str, local_store: RunningStore, hdfs_store: RunningStore, s3_store: RunningStore, gcs_store: RunningStore
) -> None:
    import torch

    from cclm.data.batches.loader import loader_context
    from tests.stores.letters import Letters

    stores = [local_store, hdfs_store, s3_store, gcs_store]
    urls = [storage.join(store.new_folder(), "letters") for store in stores]
    for url in urls:
        storage.write_atomic(url, b"abcd")
        assert storage.read_range(url, 0, 3) == b"abc"  # the parent's own client is open when the workers start
    context = loader_context() if method == "forkserver" else method  # ours has the slow imports behind it
    loader = torch.utils.data.DataLoader(
        Letters(urls), batch_size=4, num_workers=2, multiprocessing_context=context, timeout=200, collate_fn=b"".join
    )
    assert list(loader) == [b"abcd"] * len(stores)
    assert [storage.read_range(url, 0, 3) for url in urls] == [b"abc"] * len(stores)
