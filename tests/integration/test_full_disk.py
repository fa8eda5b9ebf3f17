"""A disk without room: saves fail in words, nothing half-written stays, and a run ends by `max_failed_saves`."""

import contextlib
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from cclm.checkpoints.find import newest_checkpoint
from cclm.checkpoints.retention import checkpoint_steps
from cclm.errors import UserError
from cclm.events import Journal
from cclm.metrics.sentences import Sentences
from cclm.training.saving import Saving

from .conftest import metrics, run, start
from .run_output import Output

pytestmark = pytest.mark.slow


def newest(place: Path) -> int | None:
    found = newest_checkpoint([str(place)], lambda _: None)
    return None if found is None else found.step


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(small_disk: Path):
    """The save fails in words, leaves nothing behind, and the next one succeeds once there is room."""
    lines = []
    saving = Saving(Output(str(small_disk)), Journal([Sentences(lines.append)]))
    saving.find_start("auto")
    model = nn.Linear(1000, 250)  # 1 MB
    optimizer = torch.optim.SGD([{"params": [*model.parameters()], "names": ["weight", "bias"], "lr": 0.1}])
    saving.save(1, model, optimizer, {})
    saving._wait_for_writer(1)
    (small_disk / "else").write_bytes(bytes(5 * 2**19))
    saving.save(2, model, optimizer, {})
    saving._wait_for_writer(2)
    assert "step 2 could not be saved" in lines[-1] and "No space left" in lines[-1]
    assert newest(small_disk) == 1
    (small_disk / "else").unlink()
    saving.save(3, model, optimizer, {})
    saving._wait_for_writer(3)
    assert checkpoint_steps(str(small_disk)) == [3, 1] or newest(small_disk) == 3
    (small_disk / "else").write_bytes(bytes(3 * 2**19))
    with pytest.raises(UserError, match="No space left.*make room"), saving:
        saving.save(4, model, optimizer, {})
    assert newest(small_disk) == 3


def fill(disk: Path, until: subprocess.Popen) -> None:
    """Take all the room there is, and what becomes free, until a process ends."""
    with (disk / "else").open("ab", buffering=0) as file:
        while until.poll() is None:
            with contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            time.sleep(0.05)


def test_a_disk_that_becomes_full_ends_a_real_run_by_its_failed_saves(small_disk, config, held_out):
    """Log, metrics, audit and results are on it, too; once there is room, the run goes on and none has a gap."""
    output = small_disk / "run"
    # Between saves, 25 lines of 500 bytes: some still fit into pages that a file has, or that a failed save leaves.
    path = config(
        output_dir=str(output), evaluation=held_out("en"),
        training={"max_steps": 300, "log_every": 1, "save_every": 25, "evaluate_every": 25},
    )  # fmt: skip
    process = start("pretrain", path)
    first = next(line for line in process.stdout if line.startswith("saved step"))
    filling = threading.Thread(target=fill, args=(small_disk, process))
    filling.start()
    shown, err = process.communicate(timeout=240)
    filling.join()
    assert process.returncode == 2 and "Traceback" not in err, err
    assert "cannot be written" in err.splitlines()[-1] and "No space left on device" in err.splitlines()[-1]
    assert "failure 3 of 3 in a row" in shown, first + shown
    assert "audit.jsonl could not be written (No space left on device)" in shown
    assert "retrieval.json could not be written (No space left on device)" in shown
    assert f"{output}/metrics.jsonl takes no more (No space left on device)" in err
    metrics(output)  # no half line
    (small_disk / "else").unlink()
    steps = newest(output) + 5
    run("pretrain", path, f"training.max_steps={steps}")
    assert [line["step"] for line in metrics(output) if "losses" in line] == [*range(1, steps + 1)]
