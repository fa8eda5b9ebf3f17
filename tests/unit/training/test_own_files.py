"""What a process writes on a machine of its own reaches the stores of the run."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from cclm import distributed, storage
from cclm.training.own_files import OwnFiles


@dataclass
class Places:
    """As `RunPlaces` has them."""

    folder: Path
    all: list[str]
    is_shared: bool
    log_name: str = "log-00003.txt"


@pytest.fixture(autouse=True)
def third_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: 3)


def test_log_and_broken_records_of_another_machine_are_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = f"memory://{tmp_path.name}/run"
    with OwnFiles(Places(tmp_path, [str(tmp_path / "far"), place], is_shared=False)):  # type: ignore[arg-type]  # alike
        (tmp_path / "log-00003.txt").write_text("a warning")
        (tmp_path / "quarantine-00003.jsonl").write_text("a record")
    assert storage.read_bytes(f"{place}/log-00003.txt") == b"a warning"
    assert storage.read_bytes(f"{place}/quarantine-00003.jsonl") == b"a record"
    assert "does not share the folder of the run" in caplog.text
    assert f"in {place} with every checkpoint" in caplog.text

    other = tmp_path / "other"  # the next start is on a third machine: nothing is lost
    other.mkdir()
    with OwnFiles(Places(other, [place], is_shared=False)):  # type: ignore[arg-type]  # alike
        assert (other / "quarantine-00003.jsonl").read_text() == "a record"


def test_a_process_that_sees_the_folder_sends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = f"memory://{tmp_path.name}/shared"
    with OwnFiles(Places(tmp_path, [place], is_shared=True)):  # type: ignore[arg-type]  # alike
        (tmp_path / "quarantine-00003.jsonl").write_text("a record")
    assert not storage.is_folder(place) and not caplog.records


def test_what_has_only_a_disk_of_its_own_says_where_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with OwnFiles(Places(tmp_path, [str(tmp_path)], is_shared=False)):  # type: ignore[arg-type]  # alike
        pass
    assert f"are kept in {tmp_path}, there alone" in caplog.text
