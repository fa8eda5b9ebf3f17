"""Whose next scrape the end of a run waits for, and how long."""

from collections.abc import Callable

import pytest

from cclm.metrics.scrapers import MEMORY, Client, Scrapers

END = 1000.0
PROMETHEUS, ALLOY = Client("10.0.0.1", "Prometheus/3.5.0"), Client("10.0.0.1", "Alloy/v1.10.0")
"""Behind one address."""


@pytest.mark.parametrize(
    ("times", "announces_itself", "until"),
    [
        ((980, 990), True, 1005),  # due at 1000, and waited for a little longer
        ((960, 975, 990), False, 1012.5),
        ((990,), True, 1030),  # when it comes again is not known
        ((), True, END),
        ((990,), False, END),  # one look
        ((970, 990), False, END),
        ((940, 995), True, END),  # due at 1050: too late to be waited for
        ((800, 860), True, END),  # gone
        ((960, 985), True, 1022.5),
        ((950, 980, 1000), True, END),  # has scraped since
        ((981, 983, 985), True, END),  # is overdue
        ((969, 970, 999, 999.5), True, END + 30),  # two behind one address, at an interval of 30 s
        ((984, 985, 994, 995), True, 1008.5),
    ],
    ids=str,
)
def test_who_is_waited_for(times: tuple[float, ...], announces_itself: bool, until: float) -> None:
    scrapers = Scrapers(lambda: END)
    for time in times:
        scrapers.add(PROMETHEUS, time, announces_itself=announces_itself)
    assert scrapers.wait_until(END) == until


class Clock:
    """Time passes with each look, and things happen at their time."""

    def __init__(self, **events: Callable[[], None]) -> None:
        self.time = END
        self._events = {float(at.removeprefix("at_")): event for at, event in events.items()}

    def __call__(self) -> float:
        self.time += 1
        if (event := self._events.pop(self.time, None)) is not None:
            event()
        return self.time


def test_the_last_of_two_is_waited_for() -> None:
    clock = Clock(
        at_1003=lambda: scrapers.add(PROMETHEUS, 1002, announces_itself=True),
        at_1007=lambda: scrapers.add(ALLOY, 1006, announces_itself=True),
    )
    scrapers = Scrapers(clock)
    for client in (PROMETHEUS, ALLOY):
        for time in (960, 990):
            scrapers.add(client, time, announces_itself=True)
    scrapers.await_last_scrapes(END, lambda: False)
    assert clock.time == 1007


def test_a_signal_ends_the_waiting() -> None:
    clock = Clock()
    scrapers = Scrapers(clock)
    scrapers.add(PROMETHEUS, 999, announces_itself=True)
    scrapers.await_last_scrapes(END, lambda: clock.time >= 1005)
    assert clock.time == 1005


def test_who_is_gone_is_forgotten() -> None:
    scrapers = Scrapers(lambda: END)
    for number in range(100):
        scrapers.add(Client(f"10.0.0.{number}", ""), END, announces_itself=True)
    scrapers.add(PROMETHEUS, END + MEMORY + 1, announces_itself=True)
    assert list(scrapers._clients) == [PROMETHEUS]
