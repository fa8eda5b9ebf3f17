"""Errors of stores, each with a type and one sentence, and how long an outage is retried.

Libraries wrap the same fault in many ways. So an error is classified along its chain of causes: by HTTP status, by
class, and by its message for HDFS, whose client raises few classes. An outage is retried for `patience()` seconds, with
growing, jittered pauses. A refusal (403), an absent file (404) and a failed condition (412) are answers: they are not
retried.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import TypeVar

from cclm.errors import UserError
from cclm.storage.observation import ObservedCall, Outcome

log = logging.getLogger(__name__)

PATIENCE = "CCLM_STORAGE_PATIENCE"
"""Environment variable, in seconds. Worker processes inherit it, however they are started."""

_DEFAULT_PATIENCE = 120.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # s; short enough to be back soon after an outage
_QUIET = 5.0  # s of waiting before a warning is logged

_HURRY = 3.0  # s
_LONGEST_SLEEP = 0.5  # s; how soon a call that waits notices that the patience has become shorter

T = TypeVar("T")


class ShortReadError(OSError):
    """A store holds fewer bytes than the requested range: the file shrank."""


class StoreUnavailable(OSError):
    """An outage of a store lasted longer than `patience()`."""


class AccessDenied(UserError, PermissionError):
    """A store refuses access: there are no credentials, wrong ones, or they give no right to this file."""


class MissingBucket(UserError, FileNotFoundError):
    """A bucket does not exist. Callers that only catch FileNotFoundError see an absent file."""


class IncompleteTransfer(OSError):
    """A transfer ended early although the file is whole. Another try may succeed."""


class ErrorKind(Enum):
    """What an error means for the caller."""

    OUTAGE = auto()
    DENIED = auto()
    ABSENT = auto()
    EXISTS = auto()
    PAST_END = auto()
    OTHER = auto()


_OUTCOMES = {
    ErrorKind.OUTAGE: Outcome.UNAVAILABLE, ErrorKind.DENIED: Outcome.DENIED, ErrorKind.ABSENT: Outcome.ABSENT,
    ErrorKind.EXISTS: Outcome.EXISTS,
}  # fmt: skip
"""How a call ends with an error of each kind; the others are failures."""

_BY_STATUS = {
    401: ErrorKind.DENIED, 403: ErrorKind.DENIED, 404: ErrorKind.ABSENT, 410: ErrorKind.ABSENT, 412: ErrorKind.EXISTS,
    416: ErrorKind.PAST_END, 408: ErrorKind.OUTAGE, 409: ErrorKind.OUTAGE, 425: ErrorKind.OUTAGE, 429: ErrorKind.OUTAGE,
}  # fmt: skip

# Package and class: names such as ClientError and ConnectionError mean different things in different packages.
_OUTAGE_CLASSES = {
    "aiohttp.ClientError", "botocore.HTTPClientError", "botocore.ConnectionError", "botocore.IncompleteReadError",
    "botocore.FlexibleChecksumError", "requests.ConnectionError", "requests.Timeout", "requests.ChunkedEncodingError",
    "requests.ProxyError", "gcsfs.ChecksumError", "google.TransportError", "asyncio.IncompleteReadError",
    "fsspec.FSTimeoutError", "http.HTTPException",
}  # fmt: skip
_DENIED_CLASSES = {
    "botocore.NoCredentialsError", "botocore.PartialCredentialsError", "botocore.CredentialRetrievalError",
    "botocore.ProfileNotFound", "botocore.TokenRetrievalError", "google.DefaultCredentialsError",
}  # fmt: skip
_OUTAGE_ERRNOS = {
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH,
    errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENOTCONN,
}  # fmt: skip
_HDFS_DENIED = re.compile(r"AccessControlException|AuthorizationException|InvalidToken|GSSAPI|SASL|Kerberos", re.I)
_HDFS_OUTAGE = re.compile(
    r"DataTransferError|All DataNodes failed|SafeModeException|StandbyException|RetriableException|ServerTooBusy|"
    r"could only be (written|replicated) to|BlockMissing|NotReplicatedYet|BlocksError|no valid endpoint|"
    r"failed to (lookup address|complete file in time)|timed? ?out|no data received|deadline has elapsed|early eof|"
    r"unexpected end of file|insufficient blocks|connection (closed|reset|refused)|channel closed|broken pipe|"
    r"listener disconnected",
    re.I,
)


_TOKEN = re.compile(
    r"((?:access_token|id_token|refresh_token|client_secret|X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|"
    r"AWSAccessKeyId|Signature)=)[^&\s'\")]+",
    re.I,
)


_HDFS_NOTATION = re.compile(r'\b(?:[A-Z]\w*Error|OperationFailed|InvalidArgument)\("(?:[\w.$]+", ")?')
"""How hdfs-native writes errors: `RPCError("org.apache.hadoop.SomeException", "message`."""
_JAVA_CLASS = re.compile(r"\b(?:[a-z]\w*\.)+(\w+Exception)\b")


def patience() -> float:
    """Seconds for which an outage of a store is retried. Raises UserError for a setting that is no such number."""
    text = os.environ.get(PATIENCE, "")
    try:
        seconds = float(text) if text else _DEFAULT_PATIENCE
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"{PATIENCE}={text!r} is no number of seconds, 0 or more; correct or unset it")
    return seconds


def set_patience(seconds: float) -> None:
    """Retry an outage for at most so long, in this process and in those that it starts from now on."""
    os.environ[PATIENCE] = str(float(seconds))


def hurry() -> None:
    """From now on, wait for a store that is away three seconds at most, since this process has been told to leave.

    It holds for calls that wait already, too. A signal handler may call it.
    """
    with contextlib.suppress(UserError):  # a setting that is no number is told by the next call that needs it
        set_patience(min(patience(), _HURRY))


def _is_answer(_result: object) -> bool:
    return True


def retried(url: str, call: Callable[[], T], *, is_answer: Callable[[T], bool] = _is_answer) -> T:
    """The result of `call()`, which is retried during an outage of the store. The observer hears of it.

    Args:
        url: what the call is about; messages name it.
        call: may be called again.
        is_answer: whether a result is the store's. One that is not, since the store was asked nothing, is not counted
            as a call; errors always are.

    Raises FileNotFoundError (MissingBucket where the bucket is what is missing), FileExistsError, AccessDenied,
    StoreUnavailable, ShortReadError, and OSError for any other refusal; messages are one sentence.
    """
    failed: float | None = None
    is_reported, tries = False, 0
    with ObservedCall(url) as observed:
        while True:
            began = time.monotonic()
            try:
                result = call()
            except (UserError, ShortReadError, StoreUnavailable):
                raise
            except Exception as error:
                now = time.monotonic()
                failed = now if failed is None else failed
                left = failed + patience() - now
                kind = classify(error)
                if kind is ErrorKind.OUTAGE:
                    observed.try_failed(now - began)
                if kind is not ErrorKind.OUTAGE or left <= 0:
                    observed.outcome = _OUTCOMES.get(kind, Outcome.FAILED)
                    raise _translated(url, error, kind, now - failed) from error
                if now - min(began, failed) > _QUIET and not is_reported:
                    is_reported = True
                    log.warning("waiting for %s (%s), %.0f s at most (%s)", url, reason(error), left, PATIENCE)
                # Forked workers share the state of random's global generator, so with it all would retry at once.
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**tries) * random.SystemRandom().uniform(0.5, 1.0)
                _sleep(pause, failed)
                observed.retry(time.monotonic() - now)
                tries += 1
            else:
                if is_reported and failed is not None:
                    log.warning("%s answers again after %.0f s", url, time.monotonic() - failed)
                observed.outcome = Outcome.OK if is_answer(result) else None
                return result


def _sleep(pause: float, failed: float) -> None:
    """Sleep for `pause` seconds, but not past the end of the patience with a store that has failed since `failed`."""
    end = time.monotonic() + pause
    while (left := min(end, failed + patience()) - time.monotonic()) > 0:
        time.sleep(min(left, _LONGEST_SLEEP))


def classify(error: BaseException) -> ErrorKind:
    """What `error` means, from the first of its causes that shows it."""
    for cause in _chain(error):
        if isinstance(cause, IncompleteTransfer):
            return ErrorKind.OUTAGE
        if (status := _http_status(cause)) is not None:
            return ErrorKind.OUTAGE if status >= 500 else _BY_STATUS.get(status, ErrorKind.OTHER)
        if (kind := _by_class(cause)) is not None:
            return kind
    text = str(error)
    if _HDFS_DENIED.search(text):
        return ErrorKind.DENIED
    return ErrorKind.OUTAGE if _HDFS_OUTAGE.search(text) else ErrorKind.OTHER


def reason(error: BaseException) -> str:
    """The first line of an error's message.

    It holds no Java stack, no notation of hdfs-native, and no secrets in the address of a request.
    """
    text = _TOKEN.sub(r"\1***", str(error).strip()) or type(error).__name__
    lines = [line.strip() for line in re.split(r"\n|\\n|(?:\t|\\t)at ", text)]
    first = _HDFS_NOTATION.sub("", lines[0])
    if first == lines[0]:
        return first[:200]
    # Without the end of the notation, `")`, where it is in the first line.
    plain = re.sub(r'"?\)*$', "", first) if first.count("(") < first.count(")") or first.endswith('"') else first
    java_class = _JAVA_CLASS.search(text)
    return (plain or (java_class[1] if java_class else type(error).__name__))[:200]


def _by_class(error: BaseException) -> ErrorKind | None:
    names = _class_names(error)
    if names & _DENIED_CLASSES or isinstance(error, PermissionError):
        return ErrorKind.DENIED
    if "google.RefreshError" in names:  # it says whether the identity server is only out of reach
        return ErrorKind.OUTAGE if getattr(error, "retryable", False) else ErrorKind.DENIED
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ErrorKind.ABSENT
    if isinstance(error, FileExistsError):
        return ErrorKind.EXISTS
    if names & _OUTAGE_CLASSES or isinstance(error, ConnectionError | TimeoutError):
        return ErrorKind.OUTAGE
    if isinstance(error, OSError):
        if error.errno in _OUTAGE_ERRNOS:
            return ErrorKind.OUTAGE
        if str(error).startswith("Forbidden"):  # gcsfs, for 403
            return ErrorKind.DENIED
    return None


def _class_names(error: BaseException) -> set[str]:
    return {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}


def _http_status(error: BaseException) -> int | None:
    """The HTTP status of a server's answer.

    Other errors have numbers, too, that no server sent: aiohttp's error for a body that was cut off has 400.
    """
    names = _class_names(error)
    if "botocore.ClientError" in names:
        # The class is known by its name alone, since the library need not be installed. So are the two below.
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")  # type: ignore[attr-defined]
    elif "aiohttp.ClientResponseError" in names:
        status = error.status  # type: ignore[attr-defined]  # as above
    elif "gcsfs.HttpError" in names or "google.GoogleAPICallError" in names:
        status = error.code  # type: ignore[attr-defined]  # as above
    else:
        return None
    return int(status) if str(status).isdigit() and int(status) >= 400 else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the machine's account",
    "hdfs": "HADOOP_USER_NAME, or `kinit` and KRB5CCNAME on a cluster with Kerberos",
}


def _translated(url: str, error: Exception, kind: ErrorKind, waited: float) -> OSError:
    if kind is ErrorKind.ABSENT:
        return FileNotFoundError(f"{url} does not exist")
    if kind is ErrorKind.EXISTS:
        return FileExistsError(f"{url} exists already")
    if kind is ErrorKind.DENIED:
        scheme = {"s3a": "s3", "gcs": "gs"}.get(url.split("://")[0], url.split("://")[0])
        hint = f"; check {_CREDENTIALS[scheme]}" if scheme in _CREDENTIALS else ""
        return AccessDenied(f"{url}: the store refuses access ({reason(error)}){hint}")
    if kind is ErrorKind.OUTAGE:
        return StoreUnavailable(
            f"{url}: the store did not answer for {waited:.0f} s ({reason(error)}); start it again or correct the "
            f"address ({PATIENCE} sets how long it is waited for)"
        )
    return OSError(f"{url}: {reason(error)}")
