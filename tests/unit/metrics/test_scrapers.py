"""Whose next scrape the end of a run waits for, and how long."""

from collections.abc import Callable

import pytest

from cclm.metrics.scrapers import Scrapers

END = 1000.0


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
        ((985, 993, 995), True, END),  # is overdue
    ],
    ids=str,
)
def test_who_is_waited_for(times: tuple[float, ...], announces_itself: bool, until: float) -> None:
    scrapers = Scrapers(lambda: END)
    for time in times:
        scrapers.add("10.0.0.1", time, announces_itself=announces_itself)
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
        at_1003=lambda: scrapers.add("a", 1002, announces_itself=True),
        at_1007=lambda: scrapers.add("b", 1006, announces_itself=True),
    )
    scrapers = Scrapers(clock)
    for client in "ab":
        for time in (960, 990):
            scrapers.add(client, time, announces_itself=True)
    scrapers.await_last_scrapes(END, lambda: False)
    assert clock.time == 1007


def test_a_signal_ends_the_waiting() -> None:
    clock = Clock()
    scrapers = Scrapers(clock)
    scrapers.add("a", 999, announces_itself=True)
    scrapers.await_last_scrapes(END, lambda: clock.time >= 1005)
    assert clock.time == 1005
