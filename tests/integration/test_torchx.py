"""`torchx run -s local_cwd cclm.*`: jobs of this machine, by the TorchX that is installed and by the nightly one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import torchx_nightly
from tests.stores.server import free_ports

from .conftest import environment, metrics, run
from .finetune_world import LANGUAGES, model_of, write_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = {
    "data.regions": None,
    "data.images_mono": None,
    "data.texts": None,
    "data.images.num_workers": 0,
    "training.max_steps": 4,
    "training.save_every": 2,
}


def torchx(*args: object, packages: Path | None = None) -> str:
    """Run the command line to success; returns what it says."""
    paths = [] if packages is None else [str(packages)]
    paths += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    done = subprocess.run(
        [sys.executable, "-m", "torchx.cli.main", *map(str, args)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=environment() | {"PYTHONPATH": os.pathsep.join([*paths, str(ROOT)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(params=["installed", "nightly"])
def packages(request: pytest.FixtureRequest) -> Path | None:
    """A folder that comes before the environment's packages."""
    return torchx_nightly.folder() if request.param == "nightly" else None


def test_two_nodes_pretrain_and_one_trains_a_task_from_that(
    packages: Path | None, world: Path, config: Callable[..., Path], tmp_path: Path
) -> None:
    changes: dict[str, Any] = SMALL | {"model": model_of(world)}
    by_hand = config("by_hand", **changes)
    run("pretrain", by_hand, processes=2)
    said = torchx(
        "run", "-s", "local_cwd", "cclm.pretrain", "--config", config("unused", **changes), "-j", "2x1",
        "--rdzv_port", *free_ports(1), "--output", tmp_path / "run", "--output_hdfs", tmp_path / "second",
        "--seed", 5, packages=packages,
    )  # fmt: skip
    assert "local_cwd://torchx/cclm-pretrain-" in said
    assert "SUCCEEDED" in said
    assert metrics(tmp_path / "run") == metrics(tmp_path / "by_hand")
    assert (tmp_path / "second" / "step-00000004" / "manifest.json").exists()
    assert not (tmp_path / "unused").exists()

    task = write_config(tmp_path / "xvnli.yaml", world, "classification", training={"epochs": 1, "num_workers": 0})
    torchx(
        "run", "-s", "local_cwd", "cclm.xvnli", "-j", "1x2", "--config", task, "--checkpoint", tmp_path / "second",
        "--output_hdfs", tmp_path / "tuned", packages=packages,
    )  # fmt: skip
    results = json.loads((tmp_path / "tuned" / "results.json").read_text())
    assert set(results["test"]["languages"]) == set(LANGUAGES)


def test_launch_tests_pass_with_the_nightly() -> None:
    """Those of the components and of the scheduler `kubernetes`, with its newer client."""
    tests = ["tests/unit/torchx_components", *(["tests/unit/k8s"] if (ROOT / "tests/unit/k8s").is_dir() else [])]
    paths = [str(torchx_nightly.folder()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    variables = environment() | {"PYTHONPATH": os.pathsep.join([*paths, str(ROOT)])}
    versions = "import torchx, kubernetes; print(torchx.__version__, kubernetes.__version__)"
    used = subprocess.run(
        [sys.executable, "-c", versions], cwd=ROOT, env=variables, capture_output=True, text=True, check=True
    )
    assert used.stdout.split() == [torchx_nightly.VERSION, torchx_nightly.KUBERNETES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests],
        cwd=ROOT, env=variables, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
