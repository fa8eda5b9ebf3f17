"""What goes wrong with a store, in types and one sentence each, and how long it is waited for.

Libraries wrap the same fault in many ways, so an error is judged along its chain of causes: by HTTP status, by class,
and for HDFS, whose client raises few classes, by what it says. An outage is retried with growing, jittered pauses for
`patience()` seconds. A refusal (403), an absent file (404) and a failed condition (412) are answers: no retry.
"""

from __future__ import annotations

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

log = logging.getLogger(__name__)

PATIENCE = "CCLM_STORAGE_PATIENCE"
"""Environment variable, s: worker processes inherit it however they are started."""

_DEFAULT_PATIENCE = 120.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # s; short enough to be back soon after an outage
_QUIET = 5.0  # s of waiting that nobody needs to hear of

T = TypeVar("T")


class ShortReadError(OSError):
    """A store holds fewer bytes than the range that was asked for: the file shrank."""


class StoreUnavailable(OSError):
    """A store did not answer for as long as patience lasted."""


class AccessDenied(UserError, PermissionError):
    """A store refuses: no credentials, wrong ones, or no right to this file."""


class MissingBucket(UserError, FileNotFoundError):
    """A bucket does not exist. To callers that only ask whether a file is there, an absent file."""


class Incomplete(OSError):
    """A transfer ended early although the file is whole: worth another try."""


class Verdict(Enum):
    """What an error means for the caller."""

    OUTAGE = auto()
    DENIED = auto()
    ABSENT = auto()
    EXISTS = auto()
    PAST_END = auto()
    OTHER = auto()


_BY_STATUS = {
    401: Verdict.DENIED, 403: Verdict.DENIED, 404: Verdict.ABSENT, 410: Verdict.ABSENT, 412: Verdict.EXISTS,
    416: Verdict.PAST_END, 408: Verdict.OUTAGE, 409: Verdict.OUTAGE, 425: Verdict.OUTAGE, 429: Verdict.OUTAGE,
}  # fmt: skip

# Package and class, because names such as ClientError and ConnectionError mean different things in different packages.
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


def patience() -> float:
    """Seconds that an outage of a store is waited for."""
    text = os.environ.get(PATIENCE, "")
    try:
        seconds = float(text) if text else _DEFAULT_PATIENCE
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"{PATIENCE}={text!r} is no number of seconds, 0 or more; correct or unset it")
    return seconds


def set_patience(seconds: float) -> None:
    """Wait at most so long for a store, in this process and in those it starts from now on."""
    os.environ[PATIENCE] = str(float(seconds))


def retried(url: str, call: Callable[[], T]) -> T:
    """The result of `call()`, tried again while the store is out.

    Raises FileNotFoundError (MissingBucket where the bucket is what is missing), FileExistsError, AccessDenied,
    StoreUnavailable, ShortReadError, and OSError for any other refusal; messages are one sentence.
    """
    failed: float | None = None
    told, tries = False, 0
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
            verdict = judge(error)
            if verdict is not Verdict.OUTAGE or left <= 0:
                raise _as_ours(url, error, verdict, now - failed) from error
            if now - min(began, failed) > _QUIET and not told:
                told = True
                log.warning("waiting for %s (%s), %.0f s at most (%s)", url, reason(error), left, PATIENCE)
            # Not random's global generator: forked workers share its state and would all come back at once.
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**tries) * random.SystemRandom().uniform(0.5, 1.0)
            time.sleep(min(pause, left))
            tries += 1
        else:
            if told and failed is not None:
                log.warning("%s answers again after %.0f s", url, time.monotonic() - failed)
            return result


def judge(error: BaseException) -> Verdict:
    """What `error` means, by the first of its causes that tells."""
    for cause in _chain(error):
        if isinstance(cause, Incomplete):
            return Verdict.OUTAGE
        if (status := _http_status(cause)) is not None:
            return Verdict.OUTAGE if status >= 500 else _BY_STATUS.get(status, Verdict.OTHER)
        if (verdict := _by_class(cause)) is not None:
            return verdict
    text = str(error)
    if _HDFS_DENIED.search(text):
        return Verdict.DENIED
    return Verdict.OUTAGE if _HDFS_OUTAGE.search(text) else Verdict.OTHER


def reason(error: BaseException) -> str:
    """The first line of what an error says, without Java's stack, and without the secrets of a request's address."""
    text = _TOKEN.sub(r"\1***", str(error).strip()) or type(error).__name__
    return text.replace("\\n", "\n").splitlines()[0].strip()[:200]


def _by_class(error: BaseException) -> Verdict | None:
    names = _class_names(error)
    if names & _DENIED_CLASSES or isinstance(error, PermissionError):
        return Verdict.DENIED
    if "google.RefreshError" in names:  # tells itself whether the identity server is only out of reach
        return Verdict.OUTAGE if getattr(error, "retryable", False) else Verdict.DENIED
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return Verdict.ABSENT
    if isinstance(error, FileExistsError):
        return Verdict.EXISTS
    if names & _OUTAGE_CLASSES or isinstance(error, ConnectionError | TimeoutError):
        return Verdict.OUTAGE
    if isinstance(error, OSError):
        if error.errno in _OUTAGE_ERRNOS:
            return Verdict.OUTAGE
        if str(error).startswith("Forbidden"):  # gcsfs, for 403
            return Verdict.DENIED
    return None


def _class_names(error: BaseException) -> set[str]:
    return {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}


def _http_status(error: BaseException) -> int | None:
    """The status that a server gave; other errors have numbers too, such as aiohttp's 400 for a body cut short."""
    names = _class_names(error)
    if "botocore.ClientError" in names:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")  # type: ignore[attr-defined]
    elif "aiohttp.ClientResponseError" in names:
        status = error.status  # type: ignore[attr-defined]
    elif "gcsfs.HttpError" in names or "google.GoogleAPICallError" in names:
        status = error.code  # type: ignore[attr-defined]
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


def _as_ours(url: str, error: Exception, verdict: Verdict, waited: float) -> OSError:
    if verdict is Verdict.ABSENT:
        return FileNotFoundError(f"{url} does not exist")
    if verdict is Verdict.EXISTS:
        return FileExistsError(f"{url} exists already")
    if verdict is Verdict.DENIED:
        scheme = {"s3a": "s3", "gcs": "gs"}.get(url.split("://")[0], url.split("://")[0])
        hint = f"; check {_CREDENTIALS[scheme]}" if scheme in _CREDENTIALS else ""
        return AccessDenied(f"{url}: the store refuses access ({reason(error)}){hint}")
    if verdict is Verdict.OUTAGE:
        return StoreUnavailable(
            f"{url}: the store did not answer for {waited:.0f} s ({reason(error)}); start it again or correct the "
            f"address ({PATIENCE} sets how long it is waited for)"
        )
    return OSError(f"{url}: {reason(error)}")
