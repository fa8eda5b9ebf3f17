"""A controller for clusters in which nobody removes dead nodes: `python -m k8s.dead_nodes`.

Clouds delete the Node of a machine that is gone, and with it its pods. On other clusters a pod of a dead node stays
Terminating, the training operator makes no replacement, and the job waits until somebody deletes the pod by force. That
is what this controller does, for pods of our jobs alone. `k8s.unready` says which.

A node that looks dead may be cut off and go on training beside the replacement. That harms nothing: each
checkpoint is committed once, by whoever is first, and a whole one is never written again. Pods of others may rely on
never running twice, so they are left alone.

`k8s/dead_nodes.yaml` installs it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cclm.errors import UserError
from k8s.api_errors import ClusterError, Conflict, NotFound
from k8s.client import Cluster, connect
from k8s.objects import EVENT, NODE, POD, Object
from k8s.unready import OURS, Decision, StuckPod, decide, is_lost

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge

_CONTACT_SECONDS = 30.0
"""After this time without an answer of the API server, nodes are watched anew: nobody knows what they did meanwhile."""


class Controller:
    """Looks at a cluster again and again.

    Args:
        cluster: to look at.
        namespace: whose pods are cleared; None: those of all.
        after_seconds: how long a node is waited for.
        is_dry_run: say what would be cleared, and clear nothing.
        say: gets a line for each act, and for what is in its way.
        clock: seconds that nobody sets.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str | None,
        after_seconds: float,
        *,
        is_dry_run: bool,
        say: Callable[[str], None],
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._namespace, self._after = cluster, namespace, after_seconds
        self._is_dry_run, self._say, self._metrics, self._clock = is_dry_run, say, metrics, clock
        self._unready: Mapping[str, float] = {}
        self._last_contact = clock()
        self._said = ""
        """The last obstacle that was named, so that it is named once."""
        self._named: set[str] = set()
        """Uids of pods that a dry run has named."""

    def look(self) -> None:
        """Look once, and clear what is stuck. Whatever the API server answers is said, and raises nothing."""
        try:
            decision = self._decide()
            self._note(decision.reason_to_wait)
            for pod in decision.stuck:
                self._clear(pod)
        except ClusterError as error:
            self._note(str(error))
            if self._metrics is not None:
                self._metrics.errors.inc()

    def _decide(self) -> Decision:
        nodes = self._cluster.list(NODE)
        is_calm = not any(is_lost(node) for node in nodes)
        pods = [] if is_calm else self._cluster.list(POD, self._namespace, labels=OURS)
        now = self._clock()
        if now - self._last_contact > _CONTACT_SECONDS:
            self._unready = {}
        self._last_contact = now
        decision = decide(nodes, pods, self._unready, now, datetime.now(UTC), self._after)
        self._unready = decision.unready
        if self._metrics is not None:
            self._metrics.unready.set(len(decision.unready_names))
        return decision

    def _note(self, obstacle: str) -> None:
        """Name what is in the way when it changes."""
        if obstacle and obstacle != self._said:
            self._say(obstacle)
        self._said = obstacle

    def _clear(self, pod: StuckPod) -> None:
        """Delete a pod by force, unless its node has come back or the pod is another one by now."""
        node = self._cluster.find(NODE, None, pod.node)
        if node is not None and not is_lost(node):
            return
        why = f"its node {pod.node} has not been ready for {pod.seconds:.0f} s"
        if self._is_dry_run:
            if pod.uid not in self._named:
                self._say(f"would delete pod {pod.namespace}/{pod.name} of job {pod.job}: {why}")
            self._named.add(pod.uid)
            return
        try:
            self._cluster.delete(POD, pod.namespace, pod.name, grace_seconds=0, uid=pod.uid)
        except (NotFound, Conflict):  # somebody was faster
            return
        text = f"deleted pod {pod.namespace}/{pod.name} of job {pod.job} by force: {why}"
        self._say(text)
        if self._metrics is not None:
            self._metrics.cleared.inc()
        for event in events_about(pod, text, datetime.now(UTC)):
            self._cluster.create(EVENT, pod.namespace, event)


@dataclass(frozen=True)
class Metrics:
    """What Prometheus gets of the controller."""

    cleared: Counter
    unready: Gauge
    errors: Counter


def events_about(pod: StuckPod, text: str, now: datetime) -> list[Object]:
    """Events of an act: one about the pod, and one about its job, which `torchx status` and kubectl show."""
    objects: list[Object] = [{"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}]
    if pod.owner is not None:
        objects.append({key: pod.owner[key] for key in ("apiVersion", "kind", "name", "uid")})
    time_text = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{about['name']}.", "namespace": pod.namespace},
            "involvedObject": {**about, "namespace": pod.namespace},
            "type": "Warning",
            "reason": "DeadNode",
            "message": text,
            "source": {"component": "cclm-dead-nodes"},
            "firstTimestamp": time_text,
            "lastTimestamp": time_text,
            "count": 1,
        }
        for about in objects
    ]


def run(arguments: Sequence[str] | None = None) -> int:
    """Look until SIGTERM or Ctrl-C; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        cluster = connect(options.context)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    ended = threading.Event()
    with ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(signal.signal, number, signal.signal(number, lambda *_: ended.set()))
        metrics = None if options.port is None else _serve(stack, options.port)
        controller = Controller(
            cluster, options.namespace, options.after, is_dry_run=options.dry_run, say=_print, metrics=metrics
        )
        whose = f"in namespace {options.namespace}" if options.namespace else "in all namespaces"
        _print(f"watching nodes; pods of dead ones are cleared {whose} after {options.after:g} s")
        while not ended.is_set():
            controller.look()
            ended.wait(options.interval)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m k8s.dead_nodes",
        description="Delete, by force, pods of cclm's jobs that are stuck on nodes which give no sign of life, so that "
        "the training operator replaces them. For clusters in which no cloud deletes dead nodes.",
    )
    parser.add_argument(
        "--after", type=_positive, default=60.0, metavar="S",
        help="seconds that a node must have been seen not ready without a break (default %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--interval", type=_positive, default=5.0, metavar="S", help="seconds between looks (default %(default)g)"
    )
    parser.add_argument("--namespace", help="clear pods of this namespace alone (default: of all)")
    parser.add_argument("--context", help="of the kubeconfig; in a pod, its service account is used")
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    parser.add_argument("--port", type=int, help="serve /metrics and /healthz there (default: nowhere)")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _serve(stack: ExitStack, port: int) -> Metrics:
    """Serve /metrics and /healthz until the stack is closed."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

    from cclm.metrics.endpoint import PodCollector, open_endpoint

    disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in prometheus_client
    registry = CollectorRegistry()
    metrics = Metrics(
        Counter("cclm_dead_nodes_pods_cleared", "Pods deleted by force, as their node was dead.", registry=registry),
        Gauge("cclm_dead_nodes_unready", "Nodes that are not ready.", registry=registry),
        Counter("cclm_dead_nodes_errors", "Looks at the cluster that failed.", registry=registry),
    )
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cclm-dead-nodes-")))
    stack.enter_context(open_endpoint(port, PodCollector(folder, registry), _print))
    return metrics


def _print(text: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(run())
