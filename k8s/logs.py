"""Logs of a job's replicas, across restarts and losses of nodes, without losing or repeating a line.

The API server ends a followed log without an error at the container's end, at the pod's deletion, and where it gives
up the connection to a node. So the end of a stream says nothing: after it the pod is read again. If it still runs, or
a new one has taken its place, the log is followed again from shortly before the last line, and lines that were given
out already are dropped, by their times and texts.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cclm.errors import UserError
from k8s.api_errors import ClusterError, Forbidden, MissingDefinition, NotFound
from k8s.client import Cluster
from k8s.objects import CONTAINER_OF, POD, PYTORCH_JOB, Object, Resource, pods_of
from k8s.replicas import State
from k8s.state import job_state, newest_pods

LOOK_SECONDS = 5
"""How often is looked whether a job is over while a pod of it writes no log. Changes of the pod are seen at once."""
FIRST_SECONDS, MOST_SECONDS = 1.0, 10.0
"""How long to wait at first, and at most, before another try against a node or API server that does not answer."""

_OVERLAP = timedelta(seconds=5)
"""How far before the last line a log is read again. Lines of stdout and stderr may be so much out of order in it."""
_OVER = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Line:
    """One line of a log."""

    time: datetime
    text: str
    """Without its end of line."""
    stamp: str
    """The time as it was sent, which is finer than `time`."""


@dataclass(frozen=True)
class Selection:
    """Which lines are wanted."""

    pattern: re.Pattern[str] | None = None
    """A line must contain it."""
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def build(cls, regex: str | None, since: datetime | None, until: datetime | None) -> Selection:
        """A selection; times without a zone are local ones.

        Raises:
            UserError: the regular expression is none.
        """
        try:
            pattern = re.compile(regex) if regex else None
        except re.error as error:
            raise UserError(f"--regex {regex}: not a regular expression: {error}") from error
        return cls(pattern, _in_zone(since), _in_zone(until))

    def takes(self, line: Line) -> bool:
        """Whether a line is wanted."""
        if self.since is not None and line.time < self.since:
            return False
        if self.until is not None and line.time > self.until:
            return False
        return self.pattern is None or self.pattern.search(line.text) is not None


def _in_zone(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment is not None else None


@dataclass
class Seen:
    """The lines of one container that were given out last, by which repetitions are known."""

    last: datetime | None = None
    _recent: deque[Line] = field(default_factory=deque)

    def add(self, line: Line) -> None:
        """Remember a line that is given out."""
        self._recent.append(line)
        self.last = line.time if self.last is None else max(self.last, line.time)
        while self._recent[0].time < self.last - 2 * _OVERLAP:
            self._recent.popleft()

    @property
    def start(self) -> datetime | None:
        """From when on to read again; None means from the beginning."""
        return None if self.last is None else (self.last - _OVERLAP).replace(microsecond=0)

    def repetitions(self) -> Counter[tuple[str, str]]:
        """How often each line is expected once more when the log is read again from `start`."""
        return Counter((line.stamp, line.text) for line in self._recent)


@dataclass
class Follower:
    """The log of one replica of a job, whatever pods it has one after another."""

    cluster: Cluster
    kind: Resource
    namespace: str
    job: str
    index: int
    selection: Selection = Selection()
    sleep: Callable[[float], None] = time.sleep

    def lines(self, *, is_followed: bool) -> Iterator[str]:
        """Lines, each with its end of line.

        Args:
            is_followed: go on until the job is over. Otherwise only what the present pod has written is given.

        Raises:
            ClusterError: the log cannot be read, and trying again cannot help.
        """
        for line in self._all_lines() if is_followed else self._present_lines():
            if self.selection.takes(line):
                yield line.text + "\n"
            if self._is_past(line):
                return

    def _is_past(self, line: Line) -> bool:
        until = self.selection.until
        return until is not None and line.time > until + _OVERLAP

    def _present_lines(self) -> Iterator[Line]:
        pod = self._pod()
        if pod is None:
            return
        if _restart_count(pod, self._container) > 0:
            yield from self._read(pod, Seen(), is_previous=True)
        if _has_started(pod, self._container):
            yield from self._read(pod, Seen())

    def _all_lines(self) -> Iterator[Line]:
        """Until the job is over and the last pod's log is read to its end."""
        read: str | None = None  # the container whose log is known to its end
        wait = FIRST_SECONDS
        while True:
            is_over = self._is_over()
            try:
                pod = self._pod()
                if pod is not None and _has_started(pod, self._container) and _identity(pod, self._container) != read:
                    yield from self._whole_log(pod)
                    read = _identity(pod, self._container)
                elif is_over or self._is_until_past():
                    return
                else:
                    self._wait_for_pod(pod)
                wait = FIRST_SECONDS
            except (Forbidden, MissingDefinition):
                raise
            except ClusterError:
                # The API server is away for a while.
                self.sleep(wait)
                wait = min(2 * wait, MOST_SECONDS)

    def _wait_for_pod(self, pod: Object | None) -> None:
        """Wait until something happens to the replica's pod, for a while."""
        if self.kind == PYTORCH_JOB:
            self.cluster.wait_for_change(POD, self.namespace, self._pod_name, pod, LOOK_SECONDS)
        else:
            self.sleep(FIRST_SECONDS)

    def _is_until_past(self) -> bool:
        until = self.selection.until
        return until is not None and datetime.now(UTC) > until + _OVERLAP

    def _whole_log(self, pod: Object) -> Iterator[Line]:
        """The log of one container, from its first line to its end, whatever connections break meanwhile."""
        mine, seen, wait = _identity(pod, self._container), Seen(), FIRST_SECONDS
        while True:
            before = seen.last
            try:
                yield from self._read(pod, seen, is_followed=True)
            except (Forbidden, MissingDefinition):
                raise
            except ClusterError:
                pass  # said below by the state of the pod
            wait = FIRST_SECONDS if seen.last != before else min(2 * wait, MOST_SECONDS)
            now = self._pod_or_none()
            if now is not None and now["metadata"]["uid"] != pod["metadata"]["uid"]:
                return  # another pod has taken its place; what this one wrote was sent before it went
            if now is None:
                if self._is_over() or self._is_gone(pod):
                    return
            elif _identity(now, self._container) != mine:  # started again within the pod
                yield from self._rest(now, seen, is_previous=True)
                return
            elif _has_ended(now, self._container):
                yield from self._rest(now, seen)
                return
            elif self._is_over():
                return  # the pod is on a node that does not answer, and nobody waits for it
            if self._is_until_past():
                return
            self.sleep(wait)

    def _rest(self, pod: Object, seen: Seen, *, is_previous: bool = False) -> Iterator[Line]:
        """What a container that has ended wrote after the last line that was given out."""
        try:
            yield from self._read(pod, seen, is_previous=is_previous)
        except (Forbidden, MissingDefinition):
            raise
        except ClusterError:
            return  # removed meanwhile

    def _read(self, pod: Object, seen: Seen, *, is_followed: bool = False, is_previous: bool = False) -> Iterator[Line]:
        """Lines of a container that were not given out yet, in one request."""
        options = {"previous": "true"} if is_previous else {}
        start = seen.start
        if start is None and self.selection.since is not None:
            start = self.selection.since.replace(microsecond=0)
        if start is not None:
            options["sinceTime"] = start.isoformat().replace("+00:00", "Z")
        known = seen.repetitions()
        name = pod["metadata"]["name"]
        with self.cluster.pod_log(self.namespace, name, self._container, options, is_followed=is_followed) as pieces:
            # The log is asked for by the pod's name. Another pod, or another start of the container, may have taken
            # that name since it was looked at. Its lines are not this one's.
            current = self.cluster.find(POD, self.namespace, name)
            if current is not None and _identity(current, self._container) != _identity(pod, self._container):
                return
            for raw in whole_lines(pieces, keeps_rest=not is_followed):
                line = parse_line(raw)
                if line is None:
                    continue
                if known[line.stamp, line.text] > 0:
                    known[line.stamp, line.text] -= 1
                    continue
                seen.add(line)
                yield line

    @property
    def _container(self) -> str:
        return CONTAINER_OF[self.kind.kind]

    @property
    def _pod_name(self) -> str:
        """Of a PyTorchJob, whose pods all have the names of their replicas."""
        return f"{self.job}-worker-{self.index}"

    def _pod(self) -> Object | None:
        """The replica's pod, the newest if an older one is still leaving."""
        if self.kind == PYTORCH_JOB:
            return self.cluster.find(POD, self.namespace, self._pod_name)
        selector = pods_of({"kind": self.kind.kind, "metadata": {"name": self.job}})
        return newest_pods(self.cluster.list(POD, self.namespace, labels=selector)).get(self.index)

    def _pod_or_none(self) -> Object | None:
        try:
            return self._pod()
        except (Forbidden, MissingDefinition):
            raise
        except ClusterError:
            return None

    def _is_gone(self, pod: Object) -> bool:
        """Whether a pod certainly does not exist any more."""
        try:
            found = self.cluster.find(POD, self.namespace, pod["metadata"]["name"])
        except ClusterError:
            return False
        return found is None or found["metadata"]["uid"] != pod["metadata"]["uid"]

    def _is_over(self) -> bool:
        """Whether no further pods will come. An API server that does not answer says nothing about that."""
        try:
            job = self.cluster.get(self.kind, self.namespace, self.job)
            if job_state(job, ()) not in _OVER:
                return False
            # A job that was cancelled, or succeeded by its first worker, still has pods that write.
            pods = self.cluster.list(POD, self.namespace, labels=pods_of(job))
            return job_state(job, pods) in _OVER
        except NotFound:
            return True
        except (Forbidden, MissingDefinition):
            raise
        except ClusterError:
            return False


def whole_lines(pieces: Iterator[bytes], *, keeps_rest: bool) -> Iterator[bytes]:
    """The lines in a stream of bytes, without their ends.

    Args:
        pieces: the stream.
        keeps_rest: whether what follows the last end of line is a line, too. In a stream that is cut off it is not:
            the whole line is read again later.
    """
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest and keeps_rest:
        yield rest


def parse_line(raw: bytes) -> Line | None:
    """A line that begins with its time; None if it does not, as a message of the node itself does not."""
    stamp, _, text = raw.decode(errors="replace").partition(" ")
    try:
        return Line(datetime.fromisoformat(stamp), text, stamp)
    except ValueError:
        return None


def _status_of(pod: Object, container: str) -> Object:
    entries = (pod.get("status") or {}).get("containerStatuses") or []
    return next((entry for entry in entries if entry["name"] == container), {})


def _restart_count(pod: Object, container: str) -> int:
    return int(_status_of(pod, container).get("restartCount") or 0)


def _identity(pod: Object, container: str) -> str:
    """Of a container: a new pod, and a container that was started again in its pod, have others."""
    return f"{pod['metadata']['uid']}/{_restart_count(pod, container)}"


def _has_started(pod: Object, container: str) -> bool:
    state = _status_of(pod, container).get("state") or {}
    return bool(state.get("running") or state.get("terminated"))


def _has_ended(pod: Object, container: str) -> bool:
    return bool((_status_of(pod, container).get("state") or {}).get("terminated"))
