"""`launch-COMMAND.json`: restarts by cause, over launches."""

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cclm.events import (
    AttemptsCounted,
    Ended,
    Event,
    Journal,
    NodeJoining,
    NodesMet,
    Notice,
    Restarted,
    RestartsCounted,
    RoundBroken,
    WaitingForNodes,
)
from cclm.launch.launch_file import LaunchFile


class Collected:
    """A sink that keeps all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)


MET = NodesMet(nodes=1, min_nodes=1, max_nodes=1, node_rank=0, processes=2, seconds=0.1)
KILLED = Restarted("KILLED", "rank 1 was killed", 2, 3)
SUCCESS = Ended(0, None, "", may_retry=False)
PREEMPTED = Ended(143, "PREEMPTED", "stopped by SIGTERM", may_retry=True)


def launch(folders: list[str], *events: Event, starts_anew: bool = False, job: str | None = "job") -> list[Event]:
    """One launch; returns what it emitted."""
    collected = Collected()
    file = LaunchFile(folders, "pretrain", job, starts_anew=starts_anew, journal=Journal([collected]))
    for event in events:
        file.handle(event)
    return collected.events


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "launch-pretrain.json").read_text())
    return found


def test_it_counts_restarts_over_launches(tmp_path: Path) -> None:
    places = [str(tmp_path / "a"), str(tmp_path / "b")]
    launch(
        places, WaitingForNodes(1, 1), MET, AttemptsCounted(1, 5, 100), KILLED, MET, NodeJoining(1, 2), MET, PREEMPTED
    )
    assert read(tmp_path / "a") == read(tmp_path / "b")
    found = read(tmp_path / "a")
    assert found["restarts"] == {"killed": 1, "membership": 1} and found["launches"] == 1
    assert found["end"]["cause"] == "preempted" and found["phase"] == "ended"
    assert (found["attempts"], found["attempts_step"]) == (1, 100)
    launch(places, MET, SUCCESS)
    found = read(tmp_path / "a")
    assert found["restarts"] == {"killed": 1, "membership": 1, "preempted": 1} and found["launches"] == 2
    assert found["last_restart"]["cause"] == "preempted" and found["end"]["exit_code"] == 0
    launch(places, MET, SUCCESS)
    assert sum(read(tmp_path / "a")["restarts"].values()) == 3  # after success nothing was restarted


def test_a_launcher_that_was_killed_counts_as_unknown(tmp_path: Path) -> None:
    launch([str(tmp_path)], MET, SUCCESS)
    left = read(tmp_path) | {"end": None}
    (tmp_path / "launch-pretrain.json").write_text(json.dumps(left))
    launch([str(tmp_path)], MET, SUCCESS)
    assert read(tmp_path)["restarts"] == {"unknown": 1}


def test_a_run_that_starts_anew_counts_anew(tmp_path: Path) -> None:
    launch([str(tmp_path)], MET, KILLED, SUCCESS)
    launch([str(tmp_path)], MET, SUCCESS, starts_anew=True)  # another start of the same job
    assert read(tmp_path)["restarts"] == {"killed": 1}
    launch([str(tmp_path)], MET, SUCCESS, starts_anew=True, job="another")
    assert read(tmp_path)["restarts"] == {}
    (tmp_path / "launch-pretrain.json").write_text('{"restarts"')
    launch([str(tmp_path)], MET, SUCCESS)
    assert read(tmp_path)["launches"] == 1


def test_other_nodes_and_launches_that_never_met_write_nothing(tmp_path: Path) -> None:
    launch([str(tmp_path)], WaitingForNodes(1, 2), PREEMPTED)
    launch([str(tmp_path)], NodesMet(2, 1, 2, node_rank=1, processes=4, seconds=0.1), KILLED, SUCCESS)
    assert list(tmp_path.iterdir()) == []


SECOND = NodesMet(2, 1, 2, node_rank=1, processes=4, seconds=0.1)
FIRST = NodesMet(1, 1, 2, node_rank=0, processes=2, seconds=0.1)
LOST = RoundBroken("LOST_PEER", "node 0 is lost", 3)


def test_the_node_that_takes_over_counts_each_restart_once(tmp_path: Path) -> None:
    killed = RoundBroken("KILLED", "on another node: rank 1 was killed", 3)
    first = LaunchFile([str(tmp_path)], "pretrain", "job", starts_anew=False, journal=Journal([]))
    second = LaunchFile([str(tmp_path)], "pretrain", "job", starts_anew=False, journal=Journal([]))
    of_first: list[Event] = [FIRST, killed, FIRST]
    for event in of_first:
        first.handle(event)
    while not (tmp_path / "launch-pretrain.json").exists() or not read(tmp_path)["restarts"]:
        time.sleep(0.01)
    of_second: list[Event] = [SECOND, killed, SECOND, LOST, FIRST, SUCCESS]  # node 0 is gone without a word
    for event in of_second:
        second.handle(event)
    found = read(tmp_path)
    assert found["restarts"] == second.counted == {"killed": 1, "lost_peer": 1} and found["launches"] == 1
    assert found["last_restart"]["reason"] == "node 0 is lost"


def test_a_node_that_is_node_0_again_goes_on_from_what_others_counted(tmp_path: Path) -> None:
    file = LaunchFile([str(tmp_path)], "pretrain", "job", starts_anew=False, journal=Journal([]))
    before: list[Event] = [FIRST, KILLED, FIRST, LOST, SECOND]
    for event in before:
        file.handle(event)
    while not (tmp_path / "launch-pretrain.json").exists() or len(read(tmp_path)["restarts"]) < 2:
        time.sleep(0.01)
    assert file.counted == {}
    left = read(tmp_path)
    left["restarts"]["membership"] = 7
    (tmp_path / "launch-pretrain.json").write_text(json.dumps(left))
    after: list[Event] = [RoundBroken("HARDWARE", "on another node", 3), FIRST, SUCCESS]
    for event in after:
        file.handle(event)
    expected = {"killed": 1, "lost_peer": 1, "membership": 7, "hardware": 1}
    assert read(tmp_path)["restarts"] == file.counted == expected


def test_it_tells_the_restarts_of_all_launches(tmp_path: Path) -> None:
    launch([str(tmp_path)], MET, KILLED, PREEMPTED)
    told: list[Event] = []
    file = LaunchFile(
        [str(tmp_path)], "pretrain", "job", starts_anew=False, journal=Journal([collected := Collected()])
    )
    file.handle(MET)
    while not (told := [event for event in collected.events if isinstance(event, RestartsCounted)]):
        time.sleep(0.01)
    assert told == [RestartsCounted({"killed": 1, "preempted": 1})]
    file.handle(SUCCESS)
    assert file.counted == {"killed": 1, "preempted": 1}


def test_a_place_that_takes_nothing_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = launch([str(tmp_path / "a"), str(tmp_path / "file" / "below")], MET, KILLED, MET, SUCCESS)
    [notice] = [event for event in said if not isinstance(event, RestartsCounted)]
    assert isinstance(notice, Notice) and notice.text.startswith("cclm status will not know of restarts: ")
    assert read(tmp_path / "a")["end"]["exit_code"] == 0


def test_a_lost_node_is_counted(tmp_path: Path) -> None:
    launch([str(tmp_path)], MET, RoundBroken("LOST_PEER", "node 1 is lost", 3), MET, SUCCESS)
    found = read(tmp_path)
    assert found["restarts"] == {"lost_peer": 1} and found["last_restart"]["reason"] == "node 1 is lost"


REFUSED = Ended(2, "USER_ERROR", "a run already works there", may_retry=False)


class Folder:
    """A folder in which another run works until it has been asked about so many times."""

    def __init__(self, looks: float) -> None:
        self._looks = looks
        self.was_asked = threading.Event()

    def is_taken(self) -> bool:
        self._looks -= 1
        self.was_asked.set()
        return self._looks >= 0


@pytest.mark.parametrize("looks", [math.inf, 1], ids=["it goes on", "it ends meanwhile"])
def test_a_start_that_is_refused_leaves_the_file_of_the_living_run(tmp_path: Path, looks: float) -> None:
    (tmp_path / "launch-pretrain.json").write_text("of the living run")
    folder = Folder(looks)
    file = LaunchFile(
        [str(tmp_path)], "pretrain", "job", starts_anew=False, journal=Journal([]), is_folder_taken=folder.is_taken,
        look_again=3600.0,
    )  # fmt: skip
    file.handle(MET)
    assert folder.was_asked.wait(60)
    file.handle(REFUSED)
    assert (tmp_path / "launch-pretrain.json").read_text() == "of the living run"


def test_a_start_that_takes_over_writes_the_file_as_soon_as_it_may(tmp_path: Path) -> None:
    file = LaunchFile(
        [str(tmp_path)], "pretrain", "job", starts_anew=False, journal=Journal([]), is_folder_taken=Folder(2).is_taken,
        look_again=0.01,
    )  # fmt: skip
    file.handle(MET)
    while not (tmp_path / "launch-pretrain.json").exists():
        time.sleep(0.01)
    assert read(tmp_path)["phase"] == "running"
    file.handle(SUCCESS)
    assert read(tmp_path)["phase"] == "ended"
