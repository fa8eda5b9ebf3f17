"""A node's door: it tells other nodes where the run meets, and hosts the meeting if that is here. No torch.

Every node listens at the port of the rendezvous, so each can host. Requests and answers are lines of JSON:

    {"ask": RUN}                     -> {"host": STANDING or null}
    {"report": REPORT, "run": RUN}   -> {"view": VIEW}, or {"view": null} if the node must enter anew

A node keeps one connection for its reports. When that ends, the node is lost, unless it had said that it leaves.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cclm.launch.meeting import Limits, Meeting, Node, Standing
from cclm.launch.meeting_addresses import Address
from cclm.launch.meeting_messages import Line, connect, report_from, standing_from

TICK_SECONDS = 0.5
_LOOK_GATHERING, _LOOK_RUNNING = 1.0, 5.0
"""Seconds between looks at other nodes for a better meeting, before and during a round."""
_LOOK_LOST = 0.1
"""Seconds until such a look where a node was lost."""
_IDLE_SECONDS = 120.0
"""A connection on which nothing comes for this time is given up, so that its thread ends."""
ASK_SECONDS = 2.0
"""How long a node may take to answer where it meets."""


def ask(address: Address, run_id: str, timeout: float) -> Standing | None:
    """The standing of the meeting that a node hosts; None if it hosts none.

    Raises:
        OSError: the node cannot be reached.
        ValueError: what listens there is no node of this run.
    """
    line = connect(address, timeout)
    try:
        line.send({"ask": run_id})
        answer = line.receive()
    finally:
        line.close()
    if answer is None or "host" not in answer:
        raise ValueError(f"{address} belongs to something else")
    return None if answer["host"] is None else standing_from(answer["host"])


def ask_all(addresses: Mapping[int, Address], run_id: str, timeout: float = ASK_SECONDS) -> dict[int, Standing | None]:
    """What the nodes that can be reached answer, by index. It takes at most `timeout` seconds, whatever DNS does."""
    answers: queue.SimpleQueue[tuple[int, bool, Standing | None]] = queue.SimpleQueue()

    def ask_one(index: int, address: Address) -> None:
        try:
            answers.put((index, True, ask(address, run_id, timeout)))
        except (OSError, ValueError, KeyError, TypeError):
            answers.put((index, False, None))

    for index, address in addresses.items():
        threading.Thread(target=ask_one, args=(index, address), daemon=True).start()
    found: dict[int, Standing | None] = {}
    deadline = time.monotonic() + timeout
    for _ in addresses:
        try:
            index, has_answered, standing = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if has_answered:
            found[index] = standing
    return found


class MeetingServer:
    """Listens for other nodes, in threads of its own.

    Args:
        port: where to listen; 0: any.
        run_id: nodes of other runs are turned away.
        peers: addresses of the other nodes, by index.

    Raises:
        OSError: something else listens at the port.
    """

    def __init__(self, port: int, run_id: str, peers: Mapping[int, Address]) -> None:
        self._run_id, self._peers = run_id, peers
        self._lock = threading.Lock()
        self._meeting: Meeting | None = None
        self._is_closed = False
        is_dual = socket.has_dualstack_ipv6()
        self._socket = socket.create_server(
            ("", port), family=socket.AF_INET6 if is_dual else socket.AF_INET, backlog=128, dualstack_ipv6=is_dual
        )
        self.port: int = self._socket.getsockname()[1]
        for work in (self._accept, self._tick, self._look_around):
            threading.Thread(target=work, name=f"meeting-{work.__name__.strip('_')}", daemon=True).start()

    def host(self, node: Node, limits: Limits) -> None:
        """Host a new meeting."""
        with self._lock:
            self._meeting = Meeting(node, limits, time.monotonic, _free_port)

    def others(self) -> int:
        """How many nodes besides this one attend the meeting here, or have not heard of its success; 0 if none is."""
        with self._lock:
            return 0 if self._meeting is None else self._meeting.others()

    def abandon(self) -> None:
        """Host no meeting any more. Those that attended it must look for another one."""
        with self._lock:
            self._meeting = None

    def close(self) -> None:
        """Listen no more. Connections end with the next message."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                time.sleep(0.1)  # out of file descriptors, say: it may pass
                continue
            threading.Thread(target=self._serve, args=(connection,), name="meeting-serve", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one connection until it ends."""
        line = Line(connection)
        visitor: tuple[Meeting, str] | None = None
        reason = "its connection ended"
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.wait_at_most(_IDLE_SECONDS)
            while (message := line.receive()) is not None and not self._is_closed:
                if "report" in message:
                    report = report_from(message["report"])
                    with self._lock:
                        meeting = self._meeting if message["run"] == self._run_id else None
                        view = None if meeting is None else meeting.receive(report)
                    if meeting is not None:
                        visitor = meeting, report.node.token
                    line.send({"view": None if view is None else asdict(view)})
                elif message.get("ask") == self._run_id:
                    line.send({"host": self._standing()})
                else:
                    break
        except OSError as error:
            reason = f"its connection broke: {error.strerror or error}"
        except (ValueError, KeyError, TypeError):
            reason = "it sent what is no report"
        finally:
            line.close()
            if visitor is not None:
                meeting, token = visitor
                with self._lock:
                    meeting.lose(token, reason)

    def _standing(self) -> dict[str, Any] | None:
        with self._lock:
            if self._meeting is None or self._meeting.is_dissolved:
                return None
            return asdict(self._meeting.standing())

    def _tick(self) -> None:
        while not self._is_closed:
            time.sleep(TICK_SECONDS)
            with self._lock:
                if self._meeting is not None:
                    self._meeting.tick()

    def _look_around(self) -> None:
        """Find other meetings of this run, and dissolve the one here if another one is better."""
        next_look = time.monotonic()
        while not self._is_closed:
            time.sleep(_LOOK_LOST)
            with self._lock:
                meeting = self._meeting
                if meeting is None or (time.monotonic() < next_look and not meeting.should_look_around):
                    continue
                here, losses = meeting.indexes(), meeting.losses
                pause = _LOOK_RUNNING if meeting.standing().is_running else _LOOK_GATHERING
            absent = {index: address for index, address in self._peers.items() if index not in here}
            found = [answer for answer in ask_all(absent, self._run_id).values() if answer is not None]
            with self._lock:
                meeting.yield_to(found, losses)
            next_look = time.monotonic() + pause


def _free_port() -> int:
    with socket.create_server(("", 0)) as found:
        return int(found.getsockname()[1])
