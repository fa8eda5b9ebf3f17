"""Scrapes of a run as a small text file, and that file as OpenMetrics for `promtool tsdb create-blocks-from`.

A line is a series and its value at each scrape, `_` where it was not there:

    # First scrape at 1796052720 (Unix time), one every 30 s.
    cclm_train_step{pod="demo-worker-0"} 1 2 _ 4

`python -m tests.unit.k8s.recording SCRAPES PORT ... > FILE` scrapes endpoints of this machine, one a pod.
"""

import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

INTERVAL = 30
"""Seconds between scrapes."""
POD = (
    'namespace="team",training_kubeflow_org_job_name="demo",pod="demo-worker-{index}",container="pytorch",'
    'instance="10.0.0.{index}:9400"'
)
"""Labels that Prometheus adds in a cluster."""


def scrape(port: int) -> Iterator[tuple[str, float]]:
    """Each series of an endpoint, without labels of a cluster, and its value; none where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            yield f"{sample.name}{{{labels}", sample.value


def record(ports: list[int], scrapes: int) -> str:
    """Scrape so many times, and return the lines of a file."""
    values: dict[str, list[str]] = {}
    begun = time.time()
    for number in range(scrapes):
        time.sleep(max(0.0, begun + number * INTERVAL - time.time()))
        for index, port in enumerate(ports):
            for series, value in scrape(port):
                comma = "" if series.endswith("{") else ","
                name = f"{series}{comma}{POD.format(index=index)}}}"
                column = values.setdefault(name, [])
                column += ["_"] * (number - len(column))
                column.append(f"{value:.10g}" if "timestamp" in name else f"{value:.5g}")
    lines = [f"# First scrape at {begun:.0f} (Unix time), one every {INTERVAL} s.\n"]
    for name, column in sorted(values.items()):
        column += ["_"] * (scrapes - len(column))
        lines.append(f"{name} {' '.join(column)}\n")
    return "".join(lines)


@dataclass(frozen=True)
class Recording:
    """A file that was read."""

    first: int
    """Unix time of the first scrape, in seconds."""
    scrapes: int
    series: dict[str, list[str]]
    """Series -> its values."""

    @property
    def last(self) -> int:
        """Unix time of the last scrape."""
        return self.first + (self.scrapes - 1) * INTERVAL


def read(text: str) -> Recording:
    """Read what `record` has made."""
    head, *lines = text.splitlines()
    first = re.search(r"First scrape at (\d+)", head)
    assert first is not None, f"{head!r} does not say when it was recorded"
    series = {line[: line.index("} ") + 1]: line[line.index("} ") + 2 :].split() for line in lines}
    return Recording(int(first[1]), max(map(len, series.values())), series)


def with_made_up(recording: Recording, text: str) -> Recording:
    """Add series of a file in which a line has one value for all scrapes, or `A+B`: A, and B more at each."""
    series = dict(recording.series)
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            start, _, step = value.partition("+")
            series[name] = [f"{float(start) + number * float(step or 0):.15g}" for number in range(recording.scrapes)]
    return Recording(recording.first, recording.scrapes, series)


def openmetrics(recording: Recording) -> str:
    """As OpenMetrics. Types are not said, since a database does not keep them."""
    by_metric: dict[str, list[str]] = {}
    for series, values in recording.series.items():
        times = (recording.first + number * INTERVAL for number in range(recording.scrapes))
        by_metric.setdefault(series.partition("{")[0], []).extend(
            f"{series} {value} {at}\n" for at, value in zip(times, values, strict=True) if value != "_"
        )
    return "".join(line for lines in by_metric.values() for line in lines) + "# EOF\n"


if __name__ == "__main__":
    sys.stdout.write(record([int(word) for word in sys.argv[2:]], int(sys.argv[1])))
