"""Counters of a run: broken records by reason, and what its processes do to stores."""

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cclm import storage
from cclm.cli.main import run as run_command
from tests.stores.server import free_ports
from tests.stores.store import RunningStore

from .conftest import end, start
from .test_metrics_endpoint import PATIENCE, Samples, phase, scrape, steps, value, wait_until

pytestmark = pytest.mark.slow


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all series that have these labels."""
    wanted = set(labels.items())
    return sum(number for (each, found), number in samples.items() if each == name and wanted <= found)


def is_waiting(samples: Samples) -> bool:
    return value(samples, "cclm_phase", phase="waiting_for_store") == 1


def broken_copy(source: Path, target: Path) -> None:
    """The files of a folder, with two lines of each broken: one is no JSON, the image of the other is none."""
    target.mkdir()
    for path in source.glob("*.jsonl"):  # without the indexes that other tests have left beside them
        lines = path.read_text(encoding="utf-8").splitlines()
        lines[1] = "{" + lines[1]
        lines[3] = json.dumps({**json.loads(lines[3]), "binary": "AAAA"})
        (target / path.name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_broken_records_are_counted_by_reason_over_all_processes(
    config: Any, world: Path, tmp_path: Path, launch: Any
) -> None:
    files = tmp_path / "broken"
    broken_copy(world / "data" / "pretrain" / "image_text", files)
    path = config(**{
        "data.images.files": [str(files)], "data.broken": {"max_rate": 1.0},
        "training.max_steps": 100_000, "training.log_every": 5, "training.save_every": None,
    })  # fmt: skip
    [port] = free_ports(1)
    process = launch(path, "--metrics-port", port)
    log = tmp_path / "run" / "metrics.jsonl"

    def same(samples: Samples) -> bool:
        """Whether the endpoint shows as many broken records as a line of the log."""
        assert process.poll() is None, process.communicate()
        lines = map(json.loads, log.read_text().splitlines()[-2:]) if log.exists() else ()
        logged = [line.get("skipped", {}).get("images") for line in lines]
        counted = total(samples, "cclm_records_skipped_total", source="images")
        return counted >= 8 and counted in logged

    samples = wait_until(port, same)
    by_reason = {
        dict(labels)["reason"]: number
        for (name, labels), number in samples.items()
        if name == "cclm_records_skipped_total" and number > 0
    }
    assert len(by_reason) == 2, by_reason
    assert total(samples, "cclm_records_read_total", source="images") > sum(by_reason.values())
    os.kill(process.pid, signal.SIGTERM)
    end(process, 143)


def test_calls_of_training_loaders_and_writer_are_counted_and_an_outage_shows(
    s3_store: RunningStore, config: Any, world: Path
) -> None:
    folder = s3_store.new_folder()
    images, size = storage.join(folder, "images"), 0
    for file in storage.list_files(str(world / "data" / "pretrain" / "image_text")):
        storage.put_file(file, storage.join(images, storage.name(file)))
        size += storage.size(file)
    assert run_command(["data", "index", images]) == 0
    path = config(**{
        "data.images.files": [images], "output_hdfs": storage.join(folder, "run"),
        "training.max_steps": 100_000, "training.log_every": 1, "training.save_every": 20,
    })  # fmt: skip
    [port] = free_ports(1)
    s3_store.kill()
    process = start("pretrain", path, "--metrics-port", port)

    def is_saved(samples: Samples) -> bool:
        assert process.poll() is None, process.communicate()
        return (value(samples, "cclm_checkpoints_saved_total") or 0) >= 2

    try:
        assert steps(wait_until(port, is_waiting)) == 0
        assert phase(scrape(port)) == "waiting_for_store"  # answered, although the store is down
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE) as answer:
            assert answer.status == 200
        wait_until(port, lambda samples: total(samples, "cclm_storage_retries_total", store="s3") >= 2)
        s3_store.start()
        samples = wait_until(port, is_saved)
    finally:
        s3_store.start()
        os.kill(process.pid, signal.SIGTERM)
        end(process, 143)
    assert not is_waiting(samples)
    assert total(samples, "cclm_storage_outage_seconds_total", store="s3") > 0.1
    assert total(samples, "cclm_storage_calls_total", store="s3", outcome="ok") > 10
    assert total(samples, "cclm_storage_bytes_total", store="s3", direction="read") >= size
    saved = value(samples, "cclm_checkpoint_bytes")
    assert saved and total(samples, "cclm_storage_bytes_total", store="s3", direction="written") > 2 * saved
