"""What an observer hears of calls to stores, from a fake store that fails as it is told."""

from collections.abc import Iterator

import fsspec
import pytest

from cclm import storage
from cclm.errors import UserError
from cclm.storage import Outcome
from cclm.storage.observation import StorageObserver, store_of
from cclm.storage.patience import retried
from cclm.storage.stores import open_store


class Heard:
    """An observer that keeps all it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.seconds = 0.0

    def call_ended(self, store: str, outcome: Outcome) -> None:
        self.events.append(("ended", store, outcome))

    def bytes_read(self, store: str, size: int) -> None:
        self.events.append(("read", store, size))

    def bytes_written(self, store: str, size: int) -> None:
        self.events.append(("written", store, size))

    def outage_began(self, store: str) -> None:
        self.events.append(("out", store))

    def retried(self, store: str) -> None:
        self.events.append(("retried", store))

    def waited(self, store: str, seconds: float) -> None:
        self.seconds += seconds

    def outage_ended(self, store: str) -> None:
        self.events.append(("back", store))


@pytest.fixture
def heard() -> Iterator[Heard]:
    observer: StorageObserver = (heard := Heard())
    storage.set_observer(observer)
    yield heard
    storage.set_observer(None)


def test_stores_have_one_name_each() -> None:
    urls = ["hdfs://n/f", "viewfs://n/f", "s3://b/f", "s3a://b/f", "gs://b/f", "gcs://b/f", "memory://f"]
    assert [store_of(url) for url in urls] == ["hdfs", "hdfs", "s3", "s3", "gs", "gs", "other"]


def test_an_outage_is_told_from_its_first_try_to_its_end(heard: Heard) -> None:
    errors: list[Exception] = [TimeoutError(), ConnectionResetError()]

    def call() -> int:
        if errors:
            raise errors.pop()
        return 7

    assert retried("s3a://b/k", call) == 7
    again = ("retried", "s3")
    assert heard.events == [("out", "s3"), again, again, ("back", "s3"), ("ended", "s3", Outcome.OK)]
    assert 0.3 < heard.seconds < 0.7  # two pauses


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (FileNotFoundError("x"), Outcome.ABSENT),
        (FileExistsError("x"), Outcome.EXISTS),
        (PermissionError("x"), Outcome.DENIED),
        (OSError("x"), Outcome.FAILED),
        (storage.ShortReadError("x"), Outcome.FAILED),
    ],
    ids=repr,
)
def test_an_answer_ends_a_call_without_an_outage(heard: Heard, error: Exception, outcome: Outcome) -> None:
    def call() -> None:
        raise error

    with pytest.raises(OSError):
        retried("hdfs://n/k", call)
    assert heard.events == [("ended", "hdfs", outcome)]


def test_an_outage_that_lasts_ends_too(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(storage.PATIENCE, "0.05")

    def call() -> None:
        raise ConnectionResetError

    with pytest.raises(storage.StoreUnavailable):
        retried("gs://b/k", call)
    expected = [("out", "gs"), ("retried", "gs"), ("back", "gs"), ("ended", "gs", Outcome.UNAVAILABLE)]
    assert heard.events == expected


def test_an_interrupt_ends_an_outage_too(heard: Heard) -> None:
    errors: list[BaseException] = [KeyboardInterrupt(), ConnectionResetError()]

    def call() -> None:
        raise errors.pop()

    with pytest.raises(KeyboardInterrupt):
        retried("gs://b/k", call)
    assert ("back", "gs") in heard.events


def test_bytes_are_counted_once_for_each_call_and_local_files_never(heard: Heard, tmp_path) -> None:
    url = "memory://observed/file"
    storage.write_atomic(url, b"abc")
    storage.write_new(url + "2", b"ab")
    (tmp_path / "local").write_bytes(b"12345")
    storage.put_file(str(tmp_path / "local"), url + "3")
    assert storage.read_bytes(str(tmp_path / "local")) == b"12345"
    sizes = [size for name, _, size in filter(lambda event: event[0] == "written", heard.events)]  # type: ignore[misc]  # three fields each
    assert sizes == [3, 2, 5]
    heard.events.clear()
    assert storage.read_range(url, 1, 3) == b"bc"
    assert heard.events == [("ended", "other", Outcome.OK), ("read", "other", 2)]
    fsspec.filesystem("memory").rm("/observed", recursive=True)


def test_what_asks_a_store_nothing_is_no_call(heard: Heard) -> None:
    storage.reopen()
    assert not storage.write_unless("memory://observed/file", b"abc", lambda: True)
    open_store("s3://bucket/key")  # makes a client, which connects with its first request
    assert heard.events == []
    assert storage.write_unless("memory://observed/file", b"abc", lambda: False)
    assert heard.events == [("ended", "other", Outcome.OK), ("written", "other", 3)]
    fsspec.filesystem("memory").rm("/observed", recursive=True)


def test_a_store_that_cannot_be_opened_is_a_failed_call(heard: Heard) -> None:
    with pytest.raises(UserError):
        open_store("nosuch://bucket/key")
    assert heard.events == [("ended", "other", Outcome.FAILED)]
