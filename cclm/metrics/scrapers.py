"""Who scrapes an endpoint regularly, and until when it pays to wait for their next scrape."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

MEMORY = 120.0
"""Seconds after which a client that has not come again no longer counts as a scraper."""
LONGEST_WAIT = 30.0
"""Seconds that the end of a run waits for scrapes, at most."""
_LATE = 1.5
"""How many intervals after the last scrape the next one is waited for."""
_REQUESTS_OF_A_SCRAPER = 3
"""A client that does not say what it is counts as a scraper from this number of requests on. One that looks now and
then, as `torchx status` does, is none."""


_KEPT_REQUESTS = 4
"""Requests of a client that are remembered. Several scrapers behind one address come shortly after each other, so the
longest of the times between them is an interval, not the last one."""


class Client(NamedTuple):
    """Who asked for metrics, as far as a request tells."""

    address: str
    agent: str
    """What the client calls itself. Several may be behind one address."""


@dataclass
class _Requests:
    announces_itself: bool = False
    """Whether its requests say that they are scrapes."""
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_REQUESTS))
    """When its last requests came."""


class Scrapers:
    """Remembers when each client asked for metrics.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # each request has a thread of its own
        self._clients: defaultdict[Client, _Requests] = defaultdict(_Requests)

    def add(self, client: Client, time: float, *, announces_itself: bool) -> None:
        """A request was answered in full.

        Args:
            time: when the request came, by the clock.
            announces_itself: whether it says that it is a scrape.
        """
        with self._lock:
            for other in [other for other, known in self._clients.items() if known.times[-1] < time - MEMORY]:
                del self._clients[other]
            found = self._clients[client]
            found.announces_itself |= announces_itself
            found.times.append(time)

    def wait_until(self, end: float) -> float:
        """Until when to wait for those who have not scraped since `end`; `end` itself if there is nobody to wait for.

        Args:
            end: when the last values were set, by the clock.
        """
        with self._lock:
            return max([end, *(_due(client, end) for client in self._clients.values())])

    def await_last_scrapes(self, end: float, is_stopped: Callable[[], bool]) -> None:
        """Return when everybody who scrapes regularly has done so after `end`, or is too late.

        Args:
            end: when the last values were set, by the clock.
            is_stopped: whether not to wait any longer; asked all the time.
        """
        while not is_stopped() and self._clock() < self.wait_until(end):
            time.sleep(0.05)

    def now(self) -> float:
        """The clock's time."""
        return self._clock()


def _due(client: _Requests, end: float) -> float:
    """The time until which the next scrape of a client is waited for; `end` if it is not waited for."""
    times = list(client.times)
    is_scraper = client.announces_itself or len(times) >= _REQUESTS_OF_A_SCRAPER
    if not is_scraper or times[-1] >= end or times[-1] < end - MEMORY:
        return end
    if len(times) == 1:
        return end + LONGEST_WAIT
    interval = max(later - earlier for earlier, later in pairwise(times))
    if times[-1] + interval > end + LONGEST_WAIT:
        return end  # it comes too late in any case
    return min(times[-1] + _LATE * interval, end + LONGEST_WAIT)
