"""Two processes under torchrun (gloo) against one."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from .conftest import environment, metrics, run, start
from .test_pretrain import assert_equal_checkpoints, wait_for_line

pytestmark = pytest.mark.slow

DETERMINISTIC = {
    "model.text.dropout": 0.0,
    "model.text.attention_dropout": 0.0,
    "model.vision.drop_path": 0.0,
    "objective": {"contrastive_gradient": "global"},
    # Where regions share images, a process's part of a batch is other texts; matching negatives are drawn per process.
    "data.regions": None,
    "training.max_steps": 6,
    "training.save_every": 3,
}

MEET = (
    "from torch.distributed import TCPStore\n"
    "here = TCPStore('127.0.0.1', int(os.environ['MASTER_PORT']), is_master=False)\n"
    "here.set('here' + os.environ['RANK'], ''); here.wait(['here0', 'here1'])"
)
"""For `two_processes`: all is imported, which may take one of them longer than the timeout."""


def test_two_processes_see_the_same_batches_and_compute_the_same_contrastive_losses(config, tmp_path):
    """Both learn: the losses of later steps agree only if gradients do, but matching draws from the local batch,
    so the bounds widen with the steps."""
    run("pretrain", config("one", **DETERMINISTIC))
    run("pretrain", config("two", **DETERMINISTIC), processes=2)
    assert_same_contrastive_losses(tmp_path / "one", tmp_path / "two")
    # What one process began two can bring to its end.
    shutil.copytree(tmp_path / "one", tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed" / "step-00000006")
    resumed = run("pretrain", config("mixed", **DETERMINISTIC), processes=2)
    assert "resuming after step 3" in resumed.stdout
    assert_same_contrastive_losses(tmp_path / "one", tmp_path / "mixed")


def assert_same_contrastive_losses(first: Path, second: Path) -> None:
    one, two = metrics(first), metrics(second)
    assert len(one) == len(two) == 6
    for step, (mine, theirs) in enumerate(zip(one, two, strict=True)):
        assert mine["losses"].keys() == theirs["losses"].keys()
        for name, value in mine["losses"].items():
            if "itc" in name or "ttc" in name:
                assert theirs["losses"][name] == pytest.approx(value, rel=1e-5 if step == 0 else 5e-3), (step, name)
        assert theirs["lr"] == mine["lr"]


def test_resume_with_two_processes_is_bit_equal(config, tmp_path):
    run("pretrain", config("whole", **{"training.max_steps": 30}), processes=2)
    path = config("parts", **{"training.max_steps": 30})
    process = start("pretrain", path, processes=2)
    wait_for_line(tmp_path / "parts" / "metrics.jsonl", 2)
    process.send_signal(signal.SIGTERM)  # to torchrun alone, which passes it on
    out, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "stopped by SIGTERM" in out, err
    run("pretrain", path, processes=2)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert_equal_checkpoints(tmp_path / "parts" / "step-00000030", tmp_path / "whole" / "step-00000030")


def test_batch_that_processes_cannot_share(config):
    failed = run("pretrain", config(**{"data.images.batch_size": 7}), processes=2, code=1)
    assert "data.images.batch_size = 7 cannot be shared by 2 processes" in failed.stderr


def test_languages_are_shared_out_and_gathered(config, held_out, tmp_path):
    path = config("one", evaluation=held_out("en", "de", "zh"), **{"training.max_steps": 1})
    run("pretrain", path)
    run("evaluate", path, "--checkpoint", tmp_path / "one", f"output_dir={tmp_path}/two", processes=2)
    assert (tmp_path / "two" / "retrieval.json").read_text() == (tmp_path / "one" / "retrieval.json").read_text()


def test_an_upload_may_take_longer_than_a_collective(store, tmp_path):
    """The next save waits for it, and so does the end: the others wait, too, and nobody is cut off."""
    wait = 10
    code = (
        "import os, signal, threading; from cclm import distributed as d\n"
        "from cclm.events import Journal\n"
        "from cclm.training.saving import Saving; from tests.checkpoint_files import Output, make_trained\n"
        f"{MEET}; d.initialize(); d.barrier()\n"
        f"saving = Saving(Output({str(tmp_path)!r}), Journal()); saving.find_start('auto'); trained = make_trained(0)\n"
        "def stall():\n"
        "    if d.rank() == 0:\n"
        "        pid = saving._open_writer()._process.pid; os.kill(pid, signal.SIGSTOP)\n"
        f"        threading.Timer({wait + 3}, os.kill, (pid, signal.SIGCONT)).start()\n"
        "stall()\n"
        "for step in (1, 2): saving.save(step, *trained, {})\n"
        "d.barrier(); stall(); saving.close(); d.shutdown()"
    )
    assert_both_end_well(store, code, timeout=wait)


def test_a_first_process_that_hangs_is_not_waited_for(store):
    code = (
        "import os, signal; from cclm import distributed as d; from cclm.launch.causes import classify_exception\n"
        f"{MEET}; d.initialize(); d.barrier()\n"
        "try:\n"
        "    with d.others_wait():\n"
        "        if d.rank() == 0: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "except Exception as error: os._exit(classify_exception(error).cause.code)"
    )
    first, second = two_processes(store, code, timeout=8)
    assert second.wait(timeout=240) == 134
    first.kill()
    first.wait()


def test_the_wait_for_a_slower_process_is_communication(store):
    """In a collective, and in the backward pass, which waits for gradients of the others.

    The slower one takes so long that the other is waiting for most of it, even where the machine is busy.
    """
    code = (
        "import os, time, torch; from cclm import distributed as d\n"
        "class Slow(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(ctx, x): return x.clone()\n"
        "    @staticmethod\n"
        "    def backward(ctx, g): time.sleep(2 * d.rank()); return g\n"
        "class Task(torch.nn.Module):\n"
        "    def __init__(self): super().__init__(); self.layer = torch.nn.Linear(4, 1)\n"
        "    def forward(self, x): return Slow.apply(self.layer(x)).sum()\n"
        "assert d.collective_seconds() is None\n"
        f"{MEET}; device = d.initialize(); d.barrier(); task = d.wrap(Task(), device)\n"
        "times = [d.collective_seconds()]\n"
        "time.sleep(2 * d.rank()); d.any_process(False); times.append(d.collective_seconds())\n"
        "d.backward(task(torch.ones(2, 4))); times.append(d.collective_seconds())\n"
        "if d.rank() == 0: assert all(after - before > 0.4 for before, after in zip(times, times[1:])), times\n"
        "assert task.module.layer.weight.grad.tolist() == [[2.0] * 4]; d.shutdown()"
    )
    assert_both_end_well(store, code, timeout=60)


def test_gradients_can_be_exchanged_in_bfloat16(store):
    """Without compression they are those of DistributedDataParallel alone, to the bit. With it, they are the sum of
    rounded parts, and training on them works."""
    code = (
        "import os, torch; from torch import nn; from cclm import distributed as d\n"
        "from cclm.config.pretrain import TrainingConfig; from cclm.training.run import data_parallel\n"
        "class Task(nn.Module):\n"
        "    def __init__(self): super().__init__(); self.used, self.unused = nn.Linear(64, 1), nn.Linear(4, 1)\n"
        "    def forward(self, x): return (self.used(x) - x[:, :5].sum(1, keepdim=True)).square().mean()\n"
        "def wrapped(compression):\n"
        "    torch.manual_seed(1); task = Task()\n"
        "    if compression is None: return d.wrap(task, device)\n"
        "    return data_parallel(task, TrainingConfig(grad_compress=compression), device)\n"
        "def gradient(task): d.backward(task(x)); return d.unwrap(task).used.weight.grad\n"
        f"{MEET}; device = d.initialize(); d.barrier()\n"
        "x = torch.randn(16, 64, generator=torch.Generator().manual_seed(d.rank()))\n"
        "plain, off, rounded = (gradient(wrapped(how)) for how in (None, 'none', 'bf16'))\n"
        "assert torch.equal(plain, off) and not torch.equal(plain, rounded)\n"
        "torch.manual_seed(1); alone = Task(); alone(x).backward()\n"
        "parts = d.gather_rows(alone.used.weight.grad.bfloat16() / 2)\n"
        "assert rounded.dtype == torch.float32 and torch.equal(rounded, parts.sum(0, keepdim=True).float())\n"
        "torch.testing.assert_close(rounded, plain, rtol=0.02, atol=0.02 * plain.abs().max().item())\n"
        "task = wrapped('bf16'); optimizer = torch.optim.SGD(task.parameters(), lr=0.02); losses = []\n"
        "for step in range(50):\n"
        "    loss = task(x); losses.append(loss.item()); optimizer.zero_grad(); d.backward(loss); optimizer.step()\n"
        "assert losses[-1] < 0.5 * losses[0], losses\n"
        "assert len(set(d.gather_objects(d.unwrap(task).used.weight.sum().item()))) == 1; d.shutdown()"
    )
    assert_both_end_well(store, code, timeout=60)


def test_batches_in_parts_have_the_gradients_of_the_whole(store):
    """Contrast is over the rows of both processes, whose gradients are exchanged once a step."""
    code = (
        "import os, torch; from cclm import distributed as d\n"
        "from cclm.checkpoints.initial import build_model; from cclm.config.compute import ComputeConfig\n"
        "from cclm.config.pretrain import ObjectiveConfig; from cclm.tasks.pretraining_task import PretrainTask\n"
        "from tests.unit.tasks.test_fast_paths import CONFIG, batch\n"
        f"{MEET}; device = d.initialize(); d.barrier()\n"
        "def gradients(parts, kind):\n"
        "    objective = ObjectiveConfig(contrastive_gradient='global')\n"
        "    task = PretrainTask(build_model(CONFIG, seed=3), objective, ComputeConfig(accumulate=parts)).eval()\n"
        "    wrapped = d.wrap(task, device)\n"  # lives until the end of the backward pass
        "    losses = wrapped(batch(kind, seed=d.rank()), torch.Generator().manual_seed(3))\n"
        "    d.backward(torch.stack(list(losses.values())).sum())\n"
        "    return {name: part.grad for name, part in task.named_parameters() if part.grad is not None}\n"
        "for kind in ('images', 'texts'):\n"
        "    whole, parts = gradients(1, kind), gradients(3, kind)\n"
        "    assert whole.keys() == parts.keys() and len(whole) > 50\n"
        "    largest = max(grad.abs().max().item() for grad in whole.values())\n"
        "    for name, grad in whole.items():\n"
        "        torch.testing.assert_close(parts[name], grad, rtol=1e-3, atol=1e-5 * largest, msg=name)\n"
        "    norm = torch.stack([grad.norm() for grad in parts.values()]).norm().item()\n"
        "    assert len(set(d.gather_objects(norm))) == 1\n"
        "d.shutdown()"
    )
    assert_both_end_well(store, code, timeout=60)


def test_a_machine_without_the_disk_of_the_first_one_has_files_of_its_own(store, tmp_path):
    """Each process looks at the same path from a folder of its own, as on machines that share no disk."""
    code = (
        "import os; from cclm import distributed as d; from pathlib import Path\n"
        "from cclm.training.places import RunPlaces; from tests.checkpoint_files import Output\n"
        f"os.chdir(Path({str(tmp_path)!r}) / os.environ['RANK']); {MEET}; d.initialize(); rank = d.rank()\n"
        "apart = RunPlaces(Output('run'))\n"
        "assert apart.is_shared == (rank == 0), apart.is_shared\n"
        "assert apart.log_name == ('log.txt', 'log-00001.txt')[rank] and apart.folder.is_dir()\n"
        "together = RunPlaces(Output('../run')); d.barrier()\n"
        "assert together.is_shared and together.log_name == 'log.txt', together.is_shared\n"
        "assert os.listdir('../run') == [], os.listdir('../run'); d.shutdown()"
    )
    for rank in "01":
        (tmp_path / rank).mkdir()
    assert_both_end_well(store, code, timeout=60)


@pytest.fixture
def store():
    """Where a group meets, in a process of its own, as under torchrun."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def assert_both_end_well(store: TCPStore, code: str, timeout: int) -> None:
    """Run `two_processes` to their end."""
    processes = two_processes(store, code, timeout)
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


def two_processes(store: TCPStore, code: str, timeout: int) -> list[subprocess.Popen]:
    """Ranks 0 and 1 of a group with such a timeout, in seconds, for its collectives."""
    shared = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "CUDA_VISIBLE_DEVICES": "",
        "TORCHELASTIC_USE_AGENT_STORE": "True", "CCLM_COLLECTIVE_TIMEOUT": str(timeout),
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment() | shared | {"RANK": rank}
        )
        for rank in "01"
    ]
