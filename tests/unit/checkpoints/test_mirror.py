"""Small files of a run in its remote places, while two processes train the run."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from cclm import storage
from cclm.checkpoints.writer import Writer
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
