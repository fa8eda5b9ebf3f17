"""A node's connection to the host of a meeting. No torch."""

from __future__ import annotations

import threading
from collections.abc import Callable

from cclm.launch.meeting import Report, View
from cclm.launch.meeting_addresses import Address
from cclm.launch.meeting_messages import Line, connect, report_to, view_from

REPORT_SECONDS = 0.5
"""Between two reports, where nothing happens."""
_CONNECT_SECONDS = 4.0


class Link(threading.Thread):
    """Reports to a host until the connection ends.

    Args:
        second_address: of the same host, for when the first one cannot be reached; None if there is none.
        make_report: called in this thread.
        silence: seconds without an answer after which the host is lost.
    """

    def __init__(
        self,
        address: Address,
        second_address: Address | None,
        run_id: str,
        make_report: Callable[[], Report],
        silence: float,
    ) -> None:
        super().__init__(name="meeting-link", daemon=True)
        self.address, self._second_address = address, second_address
        self._run_id, self._make_report, self._silence = run_id, make_report, silence
        self._wake = threading.Event()
        self._is_closed = False
        self.view: View | None = None
        """The newest answer."""
        self.answered: Report | None = None
        """The report that it answers."""
        self.host_address = address.host
        self.lost: str | None = None
        """Why there will be no more answers."""
        self.start()

    def send_soon(self) -> None:
        """Report at once rather than at the next half second."""
        self._wake.set()

    def close(self) -> None:
        """End the connection."""
        self._is_closed = True
        self._wake.set()

    def run(self) -> None:
        try:
            self._report()
            self.lost = "left"
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.lost = getattr(error, "strerror", None) or str(error) or type(error).__name__

    def _report(self) -> None:
        line = self._connect()
        try:
            line.wait_at_most(self._silence)
            self.host_address = line.peer_host()
            while not self._is_closed:
                self._wake.clear()
                report = self._make_report()
                line.send({"report": report_to(report), "run": self._run_id})
                answer = line.receive()
                if answer is None:
                    raise ConnectionError("the connection ended")
                if answer["view"] is None:
                    raise ConnectionError("it went on without this node")
                self.view = view_from(answer["view"])
                self.answered = report
                self._wake.wait(REPORT_SECONDS)
        finally:
            line.close()

    def _connect(self) -> Line:
        seconds = min(self._silence, _CONNECT_SECONDS)
        try:
            return connect(self.address, seconds)
        except OSError:
            if self._second_address is None:
                raise
            return connect(self._second_address, seconds)
