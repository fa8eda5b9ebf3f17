"""Stores that fail: what is waited for, what is an answer, and what is never seen by a reader."""

import gc
import os
import posixpath
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import hdfs_native
import pytest

from cclm import storage
from cclm.errors import UserError
from cclm.storage import hdfs
from cclm.storage.hdfs import call_with_timeout
from cclm.storage.interface import split_url
from tests.interrupts import obey_interrupts
from tests.stores.hdfs import HdfsStore
from tests.stores.peer import Peer
from tests.stores.proxy import Answer, Cut, Proxy, Stall
from tests.stores.server import free_ports
from tests.stores.store import SHORT_TIMEOUTS, RunningStore, environment

pytestmark = pytest.mark.slow

CONTENT = random.Random(5).randbytes(300_000)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    with environment({storage.PATIENCE: str(seconds)}):
        yield


@contextmanager
def reading(url: str) -> Iterator[list[float]]:
    """Reads random ranges of CONTENT all the while, and checks each; yields the times at which one was read."""
    times: list[float] = []
    errors: list[BaseException] = []
    end = threading.Event()
    numbers = random.Random(6)

    def read() -> None:
        try:
            while not end.is_set():
                start = numbers.randrange(len(CONTENT) - 50_000)
                assert storage.read_range(url, start, start + 50_000) == CONTENT[start : start + 50_000]
                times.append(time.monotonic())
                time.sleep(0.02)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield times
    finally:
        end.set()
        thread.join(240)
    assert not errors, errors
    assert not thread.is_alive()


def wait_for_reads(times: list[float], count: int = 3) -> None:
    """Wait until some reads have begun and ended from now on."""
    wanted = len(times) + count + 1
    deadline = time.monotonic() + 240
    while len(times) < wanted:
        assert time.monotonic() < deadline, "reading does not go on"
        time.sleep(0.05)


def wait_for_word(caplog: pytest.LogCaptureFixture, word: str) -> None:
    deadline = time.monotonic() + 240
    while word not in caplog.text:
        assert time.monotonic() < deadline, f"no {word!r} in {caplog.text!r}"
        time.sleep(0.05)


def test_reading_goes_on_after_the_store_died_and_came_back(
    remote_store: RunningStore, caplog: pytest.LogCaptureFixture
) -> None:
    url = storage.join(remote_store.new_folder(), "file")
    storage.write_atomic(url, CONTENT)
    with reading(url) as times:
        wait_for_reads(times)
        remote_store.kill()
        # Told after five seconds, at the next try: pauses between tries grow to some seconds.
        wait_for_word(caplog, "waiting for")
        before = len(times)
        time.sleep(3)
        assert len(times) == before
        remote_store.start()
        wait_for_reads(times)
    assert "waiting for" in caplog.text and "answers again" in caplog.text
    assert caplog.text.count("waiting for") == 1


def test_reading_rides_out_a_dead_and_a_frozen_data_node(hdfs_store: HdfsStore) -> None:
    url = storage.join(hdfs_store.new_folder(), "file")
    storage.write_atomic(url, CONTENT)
    with reading(url) as times:
        wait_for_reads(times)
        hdfs_store.data_node.freeze()
        time.sleep(2)
        hdfs_store.data_node.thaw()
        wait_for_reads(times)
        hdfs_store.data_node.kill()
        time.sleep(1)
        hdfs_store.start()
        wait_for_reads(times)


@pytest.mark.parametrize("which", ["name_node", "data_node"])
def test_a_silent_hdfs_is_asked_again(
    hdfs_store: HdfsStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.setattr(hdfs, "_ACK_TIMEOUT", 0.0)
    node, url = getattr(hdfs_store, which), storage.join(hdfs_store.new_folder(), "file")
    with environment(SHORT_TIMEOUTS):
        storage.write_atomic(url, b"old")
        node.freeze()
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(storage.write_atomic, url, CONTENT)
            try:
                wait_for_word(caplog, "waiting for")
                assert not writing.done()
            finally:
                node.thaw()
            writing.result(100)
        assert storage.read_bytes(url) == CONTENT
        assert [entry.name for entry in storage.list_entries(storage.parent(url))] == ["file"]


def test_a_call_that_never_returns_is_given_up_and_does_not_keep_signals_away() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError, match="silent for 0 s"):
        call_with_timeout(0.2, never.wait)
    assert call_with_timeout(60, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        call_with_timeout(60, divmod, 7, 0)

    # The handler does not raise: where garbage is collected at that moment, Python drops what a handler raises.
    before = signal.signal(signal.SIGUSR1, lambda *_: never.set())
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert call_with_timeout(60, never.wait)
    finally:
        signal.signal(signal.SIGUSR1, before)
        never.set()


def test_hdfs_is_not_waited_for_by_who_lets_go_of_a_writer(
    hdfs_store: HdfsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    close = hdfs_native.FileWriter.close

    def told(writer: hdfs_native.FileWriter) -> None:
        threads.append(threading.current_thread().name)
        close(writer)

    gc.collect()
    monkeypatch.setattr(hdfs_native.FileWriter, "close", told)
    url = storage.join(hdfs_store.new_folder(), "file")
    storage.write_atomic(url, CONTENT)
    assert {*threads} == {"hdfs"}  # calls that tests before this one gave up may end now, in threads of this name

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(hdfs_native.FileWriter, "write", fail)
    with pytest.raises(OSError, match="no"):
        storage.write_atomic(url, b"new")
    gc.collect()
    assert {*threads} == {"hdfs"}
    assert storage.read_bytes(url) == CONTENT


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("write", [storage.write_atomic, storage.write_new])
def test_a_rename_whose_answer_is_lost_is_tried_again_and_nothing_else(
    hdfs_store: HdfsStore, monkeypatch: pytest.MonkeyPatch, arrives: bool, write: Callable[[str, bytes], None]
) -> None:
    rename, create = hdfs_native.Client.rename, hdfs_native.Client.create
    renames, creates = [], []

    def lose(client: hdfs_native.Client, *args: object) -> None:
        renames.append(args)
        if len(renames) > 1 or arrives:
            rename(client, *args)
        if len(renames) == 1:
            raise TimeoutError

    def count(client: hdfs_native.Client, *args: object) -> hdfs_native.FileWriter:
        creates.append(args)
        return create(client, *args)

    monkeypatch.setattr(hdfs_native.Client, "rename", lose)
    monkeypatch.setattr(hdfs_native.Client, "create", count)
    folder = hdfs_store.new_folder()
    url = storage.join(folder, "file")
    write(url, CONTENT)
    assert storage.read_bytes(url) == CONTENT
    assert (len(creates), len(renames)) == (1, 2)
    names = [status.path for status in hdfs_native.Client(hdfs_store.url).list_status("/" + split_url(folder).path)]
    assert [posixpath.basename(path) for path in names] == ["file"]


def test_an_interrupt_during_a_read_ends_python_as_it_should(hdfs_store: HdfsStore) -> None:
    url = storage.join(hdfs_store.new_folder(), "file")
    storage.write_atomic(url, bytes(8 << 20))
    code = (
        "import sys; from cclm import storage; from cclm.storage import hdfs; hdfs._EXIT_WAIT = 60; print(flush=True)\n"
        "while True: storage.read_range(sys.argv[1], 0, 8 << 20)"
    )
    for turn in range(8):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        reader = subprocess.Popen([sys.executable, "-c", code, url], preexec_fn=obey_interrupts, **pipes)
        try:
            reader.stdout.readline()
            time.sleep(0.3 + 0.013 * turn)
            reader.send_signal(signal.SIGINT)
            try:
                _, errors = reader.communicate(timeout=120)
            except subprocess.TimeoutExpired:  # Python drops what a handler raises during garbage collection
                reader.send_signal(signal.SIGINT)
                _, errors = reader.communicate(timeout=240)
        finally:
            reader.kill()
        assert reader.returncode == -signal.SIGINT and "FATAL" not in errors, errors


def test_the_end_of_python_waits_for_a_call_whose_thread_just_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [[threading.Thread(name="hdfs")]] * 3
    monkeypatch.setattr(hdfs, "_EXIT_WAIT", 60)
    monkeypatch.setattr(threading, "enumerate", lambda: seen.pop() if seen else [])
    hdfs._wait_for_calls()
    assert not seen


@pytest.fixture(params=["s3", "gcs"])
def proxied(request: pytest.FixtureRequest) -> tuple[Proxy, str]:
    """A proxy before an object store, and the URL of a file with CONTENT on it."""
    store: RunningStore = request.getfixturevalue(f"{request.param}_store")
    url = storage.join(store.new_folder(), "file")
    storage.write_atomic(url, CONTENT)
    return request.getfixturevalue(f"{request.param}_proxy"), url


def test_errors_of_the_moment_are_ridden_out(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    assert storage.read_range(url, 0, 100) == CONTENT[:100]
    for fault in (Answer(503), Answer(500), Answer(429), Cut(0), Cut(100), Cut(20_000)):
        proxy.next(fault, fault)
        before = proxy.requests
        assert storage.read_range(url, 5, 90_000) == CONTENT[5:90_000], fault
        assert proxy.requests - before == 3, fault
    ranges = [(start, start + 10_000) for start in range(0, 100_000, 10_000)]
    proxy.next(*[Answer(503), Cut(1_000)] * 3)
    assert b"".join(storage.read_ranges(url, ranges)) == CONTENT[:100_000]
    proxy.next(Answer(503), Cut(0))
    storage.write_atomic(url, b"new")
    assert storage.read_bytes(url) == b"new"


def test_a_silent_store_is_asked_again(s3_proxy: Proxy, gcs_proxy: Proxy, s3_store, gcs_store) -> None:
    with environment(SHORT_TIMEOUTS):
        for proxy, store in ((s3_proxy, s3_store), (gcs_proxy, gcs_store)):
            url = storage.join(store.new_folder(), "file")
            storage.write_atomic(url, CONTENT)
            proxy.next(Stall(400))
            started = time.monotonic()
            assert storage.read_range(url, 0, 50_000) == CONTENT[:50_000]
            assert time.monotonic() - started < 100


def test_answers_are_not_asked_for_twice(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    assert storage.read_range(url, 0, 10) == CONTENT[:10]  # the store is open
    refusals = ((403, storage.AccessDenied, f"{url}: the store refuses"), (404, FileNotFoundError, "does not exist"))
    for status, error, sentence in refusals:
        proxy.always = Answer(status)
        started, before = time.monotonic(), proxy.requests
        with pytest.raises(error, match=sentence):
            storage.read_range(url, 0, 10)
        assert proxy.requests - before <= 2  # 404: is the bucket there?
        assert time.monotonic() - started < 60
    proxy.always = None


def test_a_lost_answer_does_not_lose_an_exclusive_write(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied
    new = url + ".new"
    storage.write_new(url + ".first", b"x")  # the first one asks the store whether it heeds conditions
    proxy.only = b"P"  # PUT, or POST for GCS
    proxy.next(Cut(0))
    storage.write_new(new, b"mine")
    assert storage.read_bytes(new) == b"mine"
    with pytest.raises(FileExistsError, match="exists already"):
        storage.write_new(new, b"mine")  # another call is another writer, with the same bytes too


@pytest.mark.parametrize("scheme", ["hdfs", "s3", "gs"])
def test_patience_ends_in_one_sentence(scheme: str) -> None:
    (port,) = free_ports(1)
    settings = {
        "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}", "FSSPEC_S3_KEY": "a", "FSSPEC_S3_SECRET": "b",
        "FSSPEC_GCS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "FSSPEC_GCS_TOKEN": "anon", storage.PATIENCE: "1.5",
    }  # fmt: skip
    url = f"{scheme}://127.0.0.1:{port}/file" if scheme == "hdfs" else f"{scheme}://bucket/file"
    with environment(settings):
        for call in (lambda: storage.read_range(url, 0, 1), lambda: storage.exists(url)):
            started = time.monotonic()
            with pytest.raises(storage.StoreUnavailable) as caught:
                call()
            assert 1.2 < time.monotonic() - started < 60
            text = str(caught.value)
            assert text.startswith(url) and storage.PATIENCE in text and "\n" not in text


def test_refusals_are_one_sentence(hdfs_store, s3_store, gcs_store) -> None:
    for url in ("s3://no-such-bucket/file", "gs://no-such-bucket/file"):
        for call in (storage.size, storage.list_entries, storage.exists):
            with pytest.raises(storage.MissingBucket, match="bucket no-such-bucket does not exist"):
                call(url)
    with pytest.raises(storage.MissingBucket):  # SeaweedFS makes the bucket instead
        storage.write_atomic("gs://no-such-bucket/file", b"x")
    with pytest.raises(UserError, match="nosuch:// is no store"):
        storage.size("nosuch://a/b")
    with environment({"FSSPEC_S3_SECRET": "wrong"}), pytest.raises(storage.AccessDenied, match="AWS_ACCESS_KEY_ID"):
        storage.size(storage.join(s3_store.url, "file"))
    folder = hdfs_store.new_folder()
    storage.write_atomic(storage.join(folder, "file"), b"x")
    with environment({"HADOOP_USER_NAME": "stranger"}):
        with pytest.raises(storage.AccessDenied, match="HADOOP_USER_NAME") as caught:
            storage.write_atomic(storage.join(folder, "other"), b"x")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
        assert storage.read_bytes(storage.join(folder, "file")) == b"x"


def test_a_killed_writer_leaves_nothing_that_looks_like_a_file(
    any_store: RunningStore, peer: Peer, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    size = 96 << 20
    source.write_bytes(bytes(size))
    folder = any_store.new_folder()
    old, new = storage.join(folder, "old"), storage.join(folder, "new")
    storage.write_atomic(old, b"what was there")
    numbers = random.Random(any_store.name)
    cut_short = 0
    for url in (new, old, new):
        peer(storage.exists, folder)  # it is up, and its client is open
        peer.begin(storage.put_file, str(source), url)
        time.sleep(numbers.uniform(0.02, 0.2))
        peer.kill()
        peer = Peer()
        names = [entry.name for entry in storage.list_entries(folder)]
        assert names in (["old"], ["new", "old"])
        if storage.exists(new):  # all had been sent before the kill; a store may take a moment to make a file of it
            assert storage.size(new) == size
            storage.delete(new)
        cut_short += storage.size(old) == 14
        assert storage.size(old) in (14, size)
    peer.kill()
    assert cut_short > 0
    storage.put_file(str(source), new)  # what the dead left is in nobody's way
    assert storage.size(new) == size
