"""Values of metrics in files: a full disk ends no process, and each folder has its own values."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from prometheus_client import CollectorRegistry

from cclm.events import PhaseChanged, Saved, StepDone
from cclm.launch_contract import METRICS_FOLDER
from cclm.metrics import catalogue, metric_values
from cclm.metrics.endpoint import PodCollector
from cclm.metrics.metric_values import FileValues, allocate_blocks
from cclm.metrics.prometheus import sink_of_process

FIRST_SIZE = 8192


class Disk:
    """Takes so many bytes a file."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.refusals = 0

    def allocate(self, file: IO[bytes], size: int) -> None:
        if size > self.limit:
            self.refusals += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate_blocks(file, size)


def read(folder: Path) -> CollectorRegistry:
    """What a scrape of the folder finds."""
    registry = CollectorRegistry()
    registry.register(PodCollector(folder))
    return registry


def scores(folder: Path) -> int:
    return sum(len(family.samples) for family in read(folder).collect() if family.name == catalogue.SCORE.name)


def fill(values: FileValues, count: int = 100) -> None:
    """Set more gauges than the first blocks have room for."""
    for number in range(count):
        values.set(catalogue.SCORE, ("nlvr", "test", f"l{number}", "accuracy"), 0.5)


def test_all_blocks_of_a_file_are_on_the_disk_before_it_is_mapped(tmp_path: Path) -> None:
    values = FileValues(str(tmp_path))
    values.add(catalogue.STEPS, (), 3)
    fill(values)
    sizes = {path.name: path.stat() for path in tmp_path.iterdir()}
    assert sizes[f"counter_{os.getpid()}.db"].st_size == FIRST_SIZE
    assert sizes[f"gauge_livemostrecent_{os.getpid()}.db"].st_size > FIRST_SIZE
    assert all(found.st_blocks * 512 >= found.st_size for found in sizes.values())  # a hole would be SIGBUS
    assert scores(tmp_path) == 100


def test_series_that_are_no_longer_true_go(tmp_path: Path) -> None:
    values = FileValues(str(tmp_path))
    both = {("images", "itc"): 1.5, ("regions", "bbox"): 2.5}

    def losses() -> dict[tuple[str, ...], float]:
        samples = [sample for family in read(tmp_path).collect() for sample in family.samples]
        return {tuple(each.labels.values()): each.value for each in samples if each.name == catalogue.LOSS.name}

    values.set_all(catalogue.LOSS, both)
    assert losses() == both
    values.set_all(catalogue.LOSS, {("images", "itc"): 1.25})
    assert losses() == {("images", "itc"): 1.25}
    values.set_all(catalogue.LOSS, both)
    assert losses() == both
    values.set(catalogue.ATTEMPTS, (), 0)
    values.forget_gauges(keep=(catalogue.ATTEMPTS,))
    assert losses() == {}
    assert read(tmp_path).get_sample_value(catalogue.ATTEMPTS.name) == 0


def test_a_full_disk_is_one_warning_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(0)
    monkeypatch.setattr(metric_values, "allocate_blocks", disk.allocate)
    monkeypatch.setenv(METRICS_FOLDER, str(tmp_path))
    sink = sink_of_process()
    assert sink is not None
    sink.handle(PhaseChanged("training"))
    for step in range(3):
        sink.handle(StepDone(step))
    [warning] = caplog.records
    assert warning.getMessage() == (
        f"metrics are not complete: {tmp_path} takes no more values (No space left on device)"
    )
    assert disk.refusals == 1  # a step does not try again
    assert list(read(tmp_path).collect()) == []


def test_values_that_have_a_place_stay_up_to_date_on_a_full_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = FileValues(str(tmp_path), Disk(FIRST_SIZE).allocate)
    values.set(catalogue.STEP, (), 1)
    fill(values)
    values.set(catalogue.STEP, (), 2)
    assert read(tmp_path).get_sample_value("cclm_train_step") == 2
    assert 0 < scores(tmp_path) < 100
    assert len(caplog.records) == 1


def test_a_folder_that_is_gone_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The launcher has ended, and a last save goes on."""
    FileValues(str(tmp_path / "gone")).add(catalogue.STEPS, (), 1)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Of two endpoints, one after the other."""
    monkeypatch.delenv(METRICS_FOLDER, raising=False)
    made = [tmp_path / name for name in ("first", "second")]
    for folder in made:
        folder.mkdir()
    yield made


def test_each_folder_gets_the_values_of_its_own_time(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for steps, folder in zip((3, 5), folders, strict=True):
        monkeypatch.setenv(METRICS_FOLDER, str(folder))
        sink = sink_of_process()
        assert sink is not None
        for step in range(steps):
            sink.handle(StepDone(step + 1))
    assert [read(folder).get_sample_value("cclm_train_steps_total") for folder in folders] == [3, 5]


def test_a_second_training_of_a_process_counts_on_and_has_gauges_of_its_own(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the two parts of `cclm run --task nlvr_domain`."""
    monkeypatch.setenv(METRICS_FOLDER, str(folders[0]))
    first = sink_of_process()
    assert first is not None
    for event in (StepDone(1), StepDone(2), Saved(2, "out", 4096, 1.0, 0.0), PhaseChanged("ended")):
        first.handle(event)
    second = sink_of_process()
    assert second is not None
    pod = read(folders[0])
    assert pod.get_sample_value("cclm_phase", {"phase": "preparing"}) == 1
    assert pod.get_sample_value("cclm_phase", {"phase": "ended"}) == 0
    assert pod.get_sample_value("cclm_checkpoint_step") is None
    second.handle(StepDone(1))
    assert pod.get_sample_value("cclm_train_step") == 1
    assert pod.get_sample_value("cclm_train_steps_total") == 3
    assert [len(family.samples) for family in pod.collect() if family.name == "cclm_build_info"] == [1]


@pytest.mark.parametrize("kind", ["counter", "gauge_livemostrecent"])
def test_broken_files_are_passed_over_and_named_once(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = FileValues(str(tmp_path))
    values.add(catalogue.STEPS, (), 3)
    values.set(catalogue.STEP, (), 7)
    (tmp_path / f"{kind}_1.db").touch()  # killed before anything was written
    broken = tmp_path / f"{kind}_2.db"
    broken.write_bytes(b"\xff\xff\x00\x00" + bytes(range(256)) * (FIRST_SIZE // 256))
    pod = read(tmp_path)
    for _ in range(2):
        assert (pod.get_sample_value("cclm_train_steps_total"), pod.get_sample_value("cclm_train_step")) == (3, 7)
    messages = [record.getMessage() for record in caplog.records]
    if kind == "counter":
        assert len(messages) == 1 and str(broken) in messages[0]


def test_a_folder_of_another_program_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PROMETHEUS_MULTIPROC_DIR, which a user or a base image has set, is neither needed nor written to."""
    import subprocess
    import sys

    other, own = tmp_path / "other", tmp_path / "own"
    for folder in (other, own):
        folder.mkdir()
    script = (
        "import os; from prometheus_client import CollectorRegistry\n"
        "from cclm.launch.metrics_sink import LauncherMetrics; from cclm.metrics.prometheus import *\n"
        "assert sink_of_process() is None; LauncherMetrics(Exported(CollectorRegistry()))\n"
        f"os.environ['{METRICS_FOLDER}'] = {str(own)!r}; sink_of_process().handle(StepDone(1))"
    )
    for name in (other, tmp_path / "missing"):
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(name)}
        environment.pop(METRICS_FOLDER, None)
        subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=300)
    assert list(other.iterdir()) == [] and len(list(own.iterdir())) == 4
