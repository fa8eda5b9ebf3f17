"""Errors of the stores' libraries, as these raise them: what is waited for and what is an answer."""

import errno
import json
import logging
import re
import sys
import time
from collections.abc import Callable

import pytest

from cclm import storage
from cclm.errors import UserError
from cclm.storage import StorageObserver
from cclm.storage.hdfs import Hdfs
from cclm.storage.patience import ErrorKind, IncompleteTransfer, classify, reason, retried
from tests.stores.store import environment


def _caused(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


def _s3(status: int, code: str = "x") -> Exception:
    from botocore.exceptions import ClientError

    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(), ErrorKind.OUTAGE),
        (OSError(errno.EHOSTUNREACH, "x"), ErrorKind.OUTAGE),
        (OSError(errno.ENOSPC, "No space left on device"), ErrorKind.OTHER),
        (_caused(OSError(errno.EBUSY, "slow"), _s3(503, "SlowDown")), ErrorKind.OUTAGE),
        (_caused(OSError(errno.EINVAL, "x"), _s3(412, "PreconditionFailed")), ErrorKind.EXISTS),
        (_caused(OSError(errno.EINVAL, "x"), _s3(416, "InvalidRange")), ErrorKind.PAST_END),
        (_s3(403), ErrorKind.DENIED),
        (_s3(404), ErrorKind.ABSENT),
        (_s3(400), ErrorKind.OTHER),
        (OSError("Forbidden: b/bucket\nno"), ErrorKind.DENIED),
        (IncompleteTransfer("x"), ErrorKind.OUTAGE),
        # As hdfs-native says them.
        (RuntimeError('DataTransferError("All DataNodes failed: [...]")'), ErrorKind.OUTAGE),
        (OSError("RPC listener disconnected"), ErrorKind.OUTAGE),
        (OSError("No data received for 20000ms"), ErrorKind.OUTAGE),
        (RuntimeError('OperationFailed("Failed to complete file in time")'), ErrorKind.OUTAGE),
        (OSError("Connection refused (os error 111)"), ErrorKind.OUTAGE),
        (RuntimeError('RPCError("org.apache.hadoop.hdfs.server.namenode.SafeModeException", "x")'), ErrorKind.OUTAGE),
        (RuntimeError('RPCError("org.apache.hadoop.security.AccessControlException", "x")'), ErrorKind.DENIED),
        (RuntimeError('RPCError("org.apache.hadoop.fs.ParentNotDirectoryException", "x")'), ErrorKind.OTHER),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_errors_are_judged_along_their_causes(error: Exception, kind: ErrorKind) -> None:
    assert classify(error) is kind


def test_errors_of_libraries_are_judged_by_package_and_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # as the adapter: a slow import less
    from aiohttp import ClientPayloadError, ServerDisconnectedError
    from aiohttp.http_exceptions import ContentLengthError
    from botocore.exceptions import NoCredentialsError, ReadTimeoutError
    from gcsfs.retry import HttpError

    # The library's number for a body cut short is 400; no server said so.
    assert classify(_caused(ClientPayloadError("cut"), ContentLengthError("cut"))) is ErrorKind.OUTAGE
    assert classify(ServerDisconnectedError()) is ErrorKind.OUTAGE
    assert classify(ReadTimeoutError(endpoint_url="x")) is ErrorKind.OUTAGE
    assert classify(NoCredentialsError()) is ErrorKind.DENIED
    assert classify(HttpError({"code": 401, "message": "Anonymous caller"})) is ErrorKind.DENIED
    assert classify(HttpError({"code": "503"})) is ErrorKind.OUTAGE


def test_an_outage_is_waited_for_and_an_answer_is_not(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setenv(storage.PATIENCE, "60")
    errors: list[Exception] = [ConnectionResetError(), TimeoutError()]

    def call() -> int:
        if errors:
            raise errors.pop()
        return 7

    assert retried("s3://b/k", call) == 7
    errors[:] = [FileNotFoundError("k"), ConnectionResetError()]
    with pytest.raises(FileNotFoundError, match="s3://b/k does not exist"):
        retried("s3://b/k", call)
    monkeypatch.setenv(storage.PATIENCE, "0.3")
    started = time.monotonic()
    errors[:] = [ConnectionResetError("gone")] * 99
    with pytest.raises(storage.StoreUnavailable, match=r"^s3://b/k: the store did not answer .*gone.*PATIENCE"):
        retried("s3://b/k", call)
    assert 0.25 < time.monotonic() - started < 30
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]  # too short to tell of


def test_who_has_to_leave_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that wait already do neither."""
    monkeypatch.setenv(storage.PATIENCE, "1000")
    storage.hurry()
    assert storage.patience() == 3
    monkeypatch.setenv(storage.PATIENCE, "1")
    storage.hurry()
    assert storage.patience() == 1
    monkeypatch.setenv(storage.PATIENCE, "no number")
    storage.hurry()  # whoever calls a store is told

    class Hurrying(StorageObserver):
        def outage_began(self, store: str) -> None:
            storage.hurry()

    monkeypatch.setenv(storage.PATIENCE, "1000")
    monkeypatch.setattr(sys.modules[retried.__module__], "_HURRY", 0.0)
    calls = []

    def call() -> None:
        calls.append(None)
        raise ConnectionRefusedError

    storage.set_observer(Hurrying())
    try:
        with pytest.raises(storage.StoreUnavailable):
            retried("s3://b/k", call)
    finally:
        storage.set_observer(None)
    assert len(calls) == 2  # it slept when it was told


def test_patience_goes_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(storage.PATIENCE, raising=False)
    assert storage.patience() == 120
    monkeypatch.setenv(storage.PATIENCE, "1")  # set first, so that what set_patience does is undone
    storage.set_patience(7)
    assert storage.patience() == 7
    for text in ("long", "nan", "inf", "-1"):
        monkeypatch.setenv(storage.PATIENCE, text)
        with pytest.raises(UserError, match=f"CCLM_STORAGE_PATIENCE='{text}' is no number"):
            storage.patience()


def test_unknown_stores_are_one_sentence() -> None:
    with pytest.raises(
        UserError, match="nosuch:// is no store that is known here; use paths, hdfs://, s3:// and gs://"
    ):
        storage.size("nosuch://a/b")


def test_secrets_of_a_request_stay_out_of_sentences() -> None:
    said = "Max retries exceeded with url: /tokeninfo?access_token=ya29.a-b_c&x=1 (Caused by: away)"
    assert reason(OSError(said)) == said.replace("ya29.a-b_c", "***")
    signed = "403 for http://s/b/k?X-Amz-Credential=AKIA%2Fx&X-Amz-Signature=0a1b"
    assert reason(OSError(signed)) == "403 for http://s/b/k?X-Amz-Credential=***&X-Amz-Signature=***"


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            r'RPCError("org.apache.hadoop.fs.ParentNotDirectoryException", "/a/f (is no folder)\n\tat a.X(Y.java)")',
            "/a/f (is no folder)",
        ),
        ('RPCError("org.apache.hadoop.fs.PathIsNotEmptyDirectoryException", "/a is not empty")', "/a is not empty"),
        ('RPCError("org.apache.hadoop.SomeException", "")', "SomeException"),
        ('OperationFailed("Failed to complete file in time")', "Failed to complete file in time"),
        ('InvalidArgument("No NameNode hosts found")', "No NameNode hosts found"),
        ("no space left\tat java.lang.Thread.run(Thread.java:1)", "no space left"),
        ("Connection refused (os error 111)", "Connection refused (os error 111)"),
    ],
)
def test_reasons_hold_no_notation_of_libraries_and_no_java_stack(message: str, sentence: str) -> None:
    assert reason(RuntimeError(message)) == sentence


class _Panic(BaseException):
    """As pyo3's PanicException."""


def test_a_panic_of_hdfs_native_is_an_error_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Client:
        def get_file_info(self, path: str) -> object:
            asked.append(path)
            raise _Panic("index out of bounds")

    monkeypatch.setattr("cclm.storage.stores.open_hdfs", lambda scheme, host: Hdfs(Client(), 60))
    storage.reopen()
    try:
        with pytest.raises(OSError, match="^hdfs://h:1/a//b/: hdfs-native failed: index out of bounds$"):
            storage.size("hdfs://h:1/a//b/")
    finally:
        storage.reopen()
    assert asked == ["/a/b"]  # several slashes are one, as in Hadoop's own tools


@pytest.mark.parametrize("url", ["s3://b/k?versionId=X", "s3://b/run?versionId=X/", "s3a://b/d?versionId=X/k"])
@pytest.mark.parametrize("call", [storage.size, storage.delete, lambda url: storage.write_atomic(url, b"x")])
def test_a_version_of_an_object_is_refused(call: Callable[[str], object], url: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(url)}: versions of objects are not supported; leave out"):
        call(url)


@pytest.mark.parametrize("timeout", ["20s", "0", "-1", "²", ""])
def test_a_wrong_timeout_of_hdfs_is_named(timeout: str) -> None:
    with (
        environment({"FSSPEC_HDFS": json.dumps({"dfs.client.socket-timeout": timeout})}),
        pytest.raises(UserError, match=f"^hdfs://h:1/x: .*dfs.client.socket-timeout is '{timeout}'.*milliseconds"),
    ):
        storage.size("hdfs://h:1/x")


def test_a_store_that_does_not_open_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with environment({"FSSPEC_GCS_TOKEN": "/none/key.json"}):
        sentence = "^gs://b/x: the store's settings are wrong .*names a file that does not exist"
        with pytest.raises(UserError, match=sentence):
            storage.size("gs://b/x")
    tries = []

    def away(*_: object) -> None:
        tries.append(1)
        raise ConnectionError("/tokeninfo?access_token=ya29 is away")

    monkeypatch.setattr("cclm.storage.stores.open_gcs", away)
    monkeypatch.setenv(storage.PATIENCE, "0.3")
    storage.reopen()
    with pytest.raises(storage.StoreUnavailable, match=r"^gs://b/x: the store did not answer .*access_token=\*\*\*"):
        storage.size("gs://b/x")
    assert len(tries) > 1
    storage.reopen()
