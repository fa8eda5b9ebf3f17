"""Small files of a run in its remote places, while two processes train the run."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from cclm import storage
from cclm.checkpoints import writer
from cclm.checkpoints.mirror import Mirror
from cclm.checkpoints.writer import Writer
from cclm.metrics.status_file import STATUS
from tests.checkpoint_files import OTHER_RUN, Save, make_trained, save_trained

METRICS = "metrics.jsonl"


class Machine:
    """A machine that trains the run: its own copy of the metrics, and its writer."""

    def __init__(self, folder: Path, place: str, *, start_step: int = 0, damaged: tuple[str, ...] = ()) -> None:
        folder.mkdir()
        self._save = Save([place], 0, *make_trained(0), {}, scratch=str(folder), damaged=damaged)
        self._writer = Writer(
            dataclasses.replace(self._save.setup, mirror_from=str(folder), mirror_to=(place,), start_step=start_step)
        )
        self._metrics = folder / METRICS
        self._writer.mirror.names = {METRICS}

    def write(self, text: str) -> None:
        self._metrics.write_text(text)

    def send(self) -> None:
        assert self._writer.mirror.send_all() == []

    def save(self, step: int) -> None:
        outcome = self._writer.save(dataclasses.replace(self._save.request, step=step))
        assert outcome.error == ""

    def close(self) -> None:
        self._save.close()


@contextmanager
def machines(tmp_path: Path, place: str) -> Iterator[tuple[Machine, Machine]]:
    """One that is cut off after 5 steps, and its replacement, which goes on from a checkpoint of step 5."""
    cut_off, replacement = Machine(tmp_path / "a", place), Machine(tmp_path / "b", place, start_step=5)
    try:
        cut_off.write("5 of the first\n")
        cut_off.save(5)
        yield cut_off, replacement
    finally:
        cut_off.close()
        replacement.close()


def test_a_machine_that_is_back_replaces_no_newer_file(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with machines(tmp_path, str(place)) as (cut_off, replacement):
        replacement.write("10 of the replacement\n")
        replacement.send()  # it may send from the start
        assert (place / METRICS).read_text() == "10 of the replacement\n"
        replacement.save(10)
        cut_off.write("7 of the first\n")
        cut_off.send()
        assert (place / METRICS).read_text() == "10 of the replacement\n"
        # Nobody would go on from what it saves now, and its numbers are not those of the newest checkpoint.
        cut_off.save(8)
        assert not list((place / "step-00000008").glob("*"))
        assert (place / METRICS).read_text() == "10 of the replacement\n"
        # It overtakes the other: its file tells of every step until its checkpoint.
        cut_off.write("15 of the first\n")
        cut_off.save(15)
        assert (place / METRICS).read_text() == "15 of the first\n"
        replacement.write("12 of the replacement\n")
        replacement.send()
        assert (place / METRICS).read_text() == "15 of the first\n"


def test_a_file_that_an_outage_has_held_up_is_not_sent_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try fails, as the cable is cut. When the next one is made, the replacement has saved."""
    place = f"memory://{tmp_path.name}/run"
    system = fsspec.filesystem("memory")
    with machines(tmp_path, place) as (cut_off, replacement):
        put = system.pipe_file
        is_first = True

        def refuse_once(path: str, data: bytes, **options: object) -> None:
            nonlocal is_first
            if is_first and path.endswith(METRICS):
                is_first = False
                replacement.write("10 of the replacement\n")
                replacement.save(10)
                raise ConnectionError("the cable is cut")
            put(path, data, **options)

        monkeypatch.setattr(type(system), "pipe_file", staticmethod(refuse_once))
        cut_off.write("7 of the first\n")
        cut_off.send()
        assert not is_first
        assert storage.read_bytes(storage.join(place, METRICS)) == b"10 of the replacement\n"


def test_what_a_slow_write_of_the_other_has_replaced_is_sent_again(tmp_path: Path) -> None:
    """The cut-off machine begins to send before the last checkpoint is there, and ends after it."""
    place = tmp_path / "place"
    place.mkdir()
    with machines(tmp_path, str(place)) as (_, replacement):
        replacement.write("10 of the replacement, its last step\n")
        replacement.save(10)
        (place / METRICS).write_text("7 of the first\n")
        replacement.send()  # though its own file is as before
        assert (place / METRICS).read_text() == "10 of the replacement, its last step\n"
        (place / METRICS).unlink()
        replacement.send()
        assert (place / METRICS).exists()


def test_checkpoints_of_other_runs_and_damaged_ones_do_not_count(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    save_trained(place, 20, run=OTHER_RUN)
    damaged = Save([str(place)], 30, *make_trained(0), {})
    assert any(phase.endswith(": committed") for phase in damaged.phases())
    damaged.close()
    machine = Machine(tmp_path / "a", str(place), damaged=(damaged.attempt,))
    machine.write("1\n")
    machine.send()
    machine.close()
    assert (place / METRICS).read_text() == "1\n"


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    """Of a run's folder `run`, in the folder `place`."""
    for name in ("run", "place"):
        (tmp_path / name).mkdir()
    made = Mirror(str(tmp_path / "run"), [str(tmp_path / "place")])
    made.names = {METRICS, STATUS}
    return made


def test_signs_of_life_are_sent_though_sending_takes_long(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a round that takes 10 s, 200 s pass before the next. A reader would call the run silent after 180 s."""
    monkeypatch.setattr("cclm.checkpoints.mirror.time.monotonic", iter((0.0, 10.0, 10.0, 10.0)).__next__)
    mirror.send_all()
    assert mirror.seconds_to_wait() == 200
    for name in (METRICS, STATUS):
        (tmp_path / "run" / name).write_text("1")
    mirror.send_signs()
    assert [path.name for path in (tmp_path / "place").iterdir()] == [STATUS]


def test_signs_of_life_are_sent_while_a_save_goes_on(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that saves waits here, as for a store."""
    sent = threading.Event()
    original = mirror.send_signs

    def send_signs() -> None:
        original()
        sent.set()

    monkeypatch.setattr(mirror, "send_signs", send_signs)
    (tmp_path / "run" / STATUS).write_text("1")
    with mirror.showing_life(every=0.001):
        assert sent.wait(60)
    assert (tmp_path / "place" / STATUS).read_text() == "1"


def test_an_older_sign_of_life_replaces_no_newer_one(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of signs is still sending the last but one state when everything is sent at the end."""
    status = tmp_path / "run" / STATUS
    status.write_text("training")
    original, is_sending, may_go_on = storage.write_unless, threading.Event(), threading.Event()

    def write_slowly(url: str, data: bytes, is_refused: Callable[[], bool]) -> bool:
        if data == b"training":
            is_sending.set()
            assert may_go_on.wait(60)
        return original(url, data, is_refused)

    monkeypatch.setattr(storage, "write_unless", write_slowly)
    threads = [threading.Thread(target=send) for send in (mirror.send_signs, mirror.send_all)]
    threads[0].start()
    assert is_sending.wait(60)
    status.write_text("ended")
    threads[1].start()
    may_go_on.set()
    for thread in threads:
        thread.join()
    assert (tmp_path / "place" / STATUS).read_text() == "ended"


def test_the_writer_shows_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    @contextmanager
    def showing_life(mirror: Mirror) -> Iterator[None]:
        shown.append("begins")
        yield
        shown.append("ends")

    def lines(mirror: Mirror) -> Iterator[bytes]:
        shown.append("requests")
        return iter(())

    monkeypatch.setattr(Mirror, "showing_life", showing_life)
    monkeypatch.setattr(writer, "_lines", lines)
    machine = Machine(tmp_path / "run", str(tmp_path))
    machine._writer.serve()
    machine.close()
    assert shown == ["begins", "requests", "ends"]
