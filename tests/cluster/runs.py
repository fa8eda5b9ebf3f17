"""A run of cclm on the cluster, started and asked as a user does it: by the `torchx` command line."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cclm import storage
from tests.stores.store import environment

from . import demo_run, images, mounted
from .common import PROJECT, ClusterError
from .jobs import JOB_LABEL
from .kubectl import kubeconfig_environment
from .progress import Progress
from .space import Space
from .stores import ClusterS3

SECRET = "s3"
WORLD = Path("/opt/world")
"""Where pods also find the folder of configs, and this machine does not."""
USER = 10001
_HANDLE = re.compile(r"kubernetes://\S+")


@dataclass
class Command:
    """What a command of torchx printed, and its exit code."""

    out: str
    err: str
    code: int


@dataclass
class Workbench:
    """What every run of a session shares: the store with the data, the tokenizer's world, and a place for configs."""

    store: ClusterS3
    world: Path
    folder: Path
    packages: Path | None = None
    """A folder whose packages come before those of this environment, such as another TorchX."""
    _undisturbed: dict[int, demo_run.Undisturbed] = field(default_factory=dict)

    @classmethod
    def make(cls, store: ClusterS3, folder: Path) -> Workbench:
        """Draw the world, put its data into the store, and index it there."""
        folder.chmod(0o755)
        world = folder / "world"
        demo_run.make_world(world)
        made = cls(store, world, folder)
        with environment(store.environment):
            for path in (world / "data" / "pretrain").rglob("*.jsonl"):
                name = str(path.relative_to(world / "data" / "pretrain"))
                storage.write_atomic(storage.join(made.data, name), path.read_bytes())
        sources = [storage.join(made.data, name) for name in ("image_text", "parallel_text")]
        indexed = made.cclm("data", "index", *sources)
        if indexed.code != 0:
            raise ClusterError(f"cclm data index failed: {indexed.err}")
        return made

    @property
    def data(self) -> str:
        """URL of the pre-training files."""
        return storage.join(self.store.url, "data")

    def config(self, steps: int, **changes: Any) -> Path:
        """A config for pods, with its data in the store."""
        settings = demo_run.settings(self.world, self.data, steps, **changes)
        return demo_run.write(self.folder / f"{random.randbytes(4).hex()}.yaml", settings)

    def undisturbed(self, steps: int) -> demo_run.Undisturbed:
        """The same run on this machine, with one process; once for each number of steps."""
        if steps not in self._undisturbed:
            settings = demo_run.settings(self.world, str(self.world / "data" / "pretrain"), steps)
            config = demo_run.write(self.folder / f"undisturbed-{steps}.yaml", settings)
            self._undisturbed[steps] = demo_run.Undisturbed(config, self.folder / f"undisturbed-{steps}")
        return self._undisturbed[steps]

    def end(self) -> None:
        """End what still runs on this machine."""
        for run in self._undisturbed.values():
            run.end()

    def cclm(self, *words: str) -> Command:
        """Run a command of cclm on this machine, with the store."""
        env = {**os.environ, **self.store.environment, "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, "-m", "cclm", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        return Command(done.stdout, done.stderr, done.returncode)

    def torchx(self, space: Space, *words: str, timeout: float = 300) -> Command:
        """Run torchx as a user of the cluster would who has no settings of his own."""
        nothing = self.folder / "torchxconfig"
        nothing.touch()
        paths = os.pathsep.join(str(path) for path in (self.packages, PROJECT) if path is not None)
        env = {**kubeconfig_environment(space.api.kubeconfig), "TORCHXCONFIG": str(nothing), "PYTHONPATH": paths}
        command = [str(Path(sys.executable).parent / "torchx"), *words]
        done = subprocess.run(
            command, env=env, cwd=self.folder, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        )
        return Command(done.stdout, done.stderr, done.returncode)

    def mounts(self) -> str:
        """Value of `--mounts`: this machine's Python, the working tree and the world, read-only."""
        places = {folder: folder for folder in (*mounted.folders(), self.folder)} | {WORLD: self.folder}
        return ",".join(f"type=bind,src={folder},dst={place},readonly" for place, folder in places.items())


@dataclass
class Run:
    """A submitted run, and what is known of it."""

    space: Space
    bench: Workbench
    name: str
    """Name of the job."""
    handle: str
    """What torchx calls it."""
    output: str
    """URL where the run saves."""
    steps: int
    progress: Progress
    faults: list[dict[str, Any]] = field(default_factory=list)
    """What was done to the run, with the seconds until it went on."""

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.end()

    # --- what it is doing -------------------------------------------------------------------------------------------

    def pods(self) -> list[Any]:
        """Its pods, as the API has them."""
        found: list[Any] = self.space.api.get("pod", None, "-l", f"{JOB_LABEL}={self.name}")
        return found

    def pod(self, index: int) -> str:
        """Name of a worker's pod."""
        return f"{self.name}-worker-{index}"

    def node_of(self, index: int) -> str:
        """The node that a worker's pod is on."""
        return str(self.space.api.get("pod", self.pod(index))["spec"]["nodeName"])

    def job(self) -> Any:
        """The PyTorchJob."""
        return self.space.api.get("pytorchjob", self.name)

    def why(self) -> str:
        """How the run stands, for whoever waited in vain."""
        pods = "; ".join(f"{pod['metadata']['name']} {pod['status'].get('phase')}" for pod in self.pods())
        last = {name: (sample.step, sample.world) for name, sample in self.progress.latest.items()}
        logs = [self.space.api.attempt("logs", pod["metadata"]["name"], "--tail=4").stdout for pod in self.pods()]
        return f"step {self.progress.step} of {self.steps}; {pods}; step and world by pod {last}; {' | '.join(logs)}"

    def wait_step(self, step: int, timeout: float = 300) -> None:
        """Wait until this step, or a later one, is made."""
        self.wait(lambda: self.progress.step >= step, f"step {step}", timeout)

    def wait_world(self, world: int, timeout: float = 300) -> None:
        """Wait until as many processes train, and have made steps that are new."""

        def trains() -> bool:
            return bool(self.progress.advances) and self.progress.advances[-1].world == world

        self.wait(trains, f"a new step of {world} processes", timeout)

    def wait(self, reached: Callable[[], Any], what: str, timeout: float = 300) -> None:
        """Wait for something of the run; an end of the job meanwhile is an error at once."""

        def reached_or_over() -> Any:
            if reached():
                return True
            if self.progress.ended:
                raise ClusterError(f"the job {self.name} ended before {what}: {self.why()}")
            return False

        self.progress.wait(reached_or_over, what, self.why, timeout)

    def wait_end(self, timeout: float = 600) -> str:
        """Wait until the job is over; its last condition."""
        self.progress.wait(lambda: self.progress.ended, f"the end of {self.name}", self.why, timeout)
        return str(self.progress.ended)

    # --- damage -----------------------------------------------------------------------------------------------------

    @contextmanager
    def fault(self, name: str, world: int | None = None, new_steps: int = 5, timeout: float = 420) -> Iterator[None]:
        """Do damage inside; returns when training has gone on, with `world` processes if that is given.

        How long training stood still is noted in `faults`.
        """
        pods = {pod["metadata"]["uid"] for pod in self.pods()}
        since = time.monotonic()
        yield
        # Steps that were made before the damage, and are seen only now, are no sign of life after it.
        settled = time.monotonic() + 3
        self.wait(lambda: time.monotonic() >= settled, f"what {name} does", timeout)
        if world is not None:
            self.wait_world(world, timeout)
        self.wait_step(self.progress.step + new_steps, timeout)
        self.faults.append(
            {
                "fault": name,
                "standstill_seconds": round(self.progress.standstill(since), 1),
                "until_whole_seconds": round(time.monotonic() - since, 1),
                "step": self.progress.step,
                "new_pods": len({pod["metadata"]["uid"] for pod in self.pods()} - pods),
                "attempts": self.attempts(),
            }
        )

    def attempts(self) -> int:
        """Starts in a row without a newer checkpoint, as the launcher counts them."""
        with environment(self.bench.store.environment):
            try:
                return int(
                    json.loads(storage.read_bytes(storage.join(self.output, "attempts-pretrain.json")))["attempts"]
                )
            except FileNotFoundError:
                return 0

    # --- what it left -----------------------------------------------------------------------------------------------

    def losses(self) -> dict[int, dict[str, float]]:
        """Step to its losses, from the store."""
        with environment(self.bench.store.environment):
            return demo_run.losses(storage.read_bytes(storage.join(self.output, "metrics.jsonl")).decode())

    def log(self) -> str:
        """`log.txt` of all starts, from the store: pods of a job that has succeeded are deleted while they leave."""
        with environment(self.bench.store.environment):
            return storage.read_bytes(storage.join(self.output, "log.txt")).decode()

    def stored_step(self) -> int:
        """The newest step whose numbers are in the store; known while the cluster's API is down, too."""
        try:
            return max(self.losses(), default=0)
        except FileNotFoundError:
            return 0

    def audit(self) -> Command:
        """What `cclm data audit` says of it."""
        return self.bench.cclm("data", "audit", self.output)

    def keep(self, file: Path) -> None:
        """Append what was done to the run to a file of JSON lines."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lines:
            lines.writelines(json.dumps({"run": self.name, **fault}) + "\n" for fault in self.faults)


def submit(
    space: Space,
    bench: Workbench,
    *arguments: str,
    steps: int,
    name: str = "run",
    options: Sequence[str] = (),
    output: str | None = None,
) -> Run:
    """Submit `cclm.pretrain` by torchx, with the store's credentials from a Secret, and watch it.

    Args:
        space: the namespace of the job.
        bench: where its output goes.
        arguments: of the component; its name and its output are added.
        steps: outer steps of the run, for whoever waits for them.
        name: of the job, to which torchx adds a few letters.
        options: run options, as key=value.
        output: URL where the run saves; None: a new folder of the store.
    """
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}}
    space.api.apply({**secret, "stringData": bench.store.pod_environment})
    output = output or bench.store.new_folder()
    given = {option.partition("=")[0] for option in options}
    chosen = [f"namespace={space.name}", *([] if "secrets" in given else [f"secrets={SECRET}"]), *options]
    words = ["run", "-s", "kubernetes", "-cfg", ",".join(chosen), "cclm.pretrain", "--name", name]
    said = bench.torchx(space, *words, "--output_hdfs", output, *arguments)
    found = _HANDLE.search(said.out)
    if said.code != 0 or found is None:
        raise ClusterError(f"torchx run failed ({said.code}): {said.out[-500:]} {said.err[-1500:]}")
    job = found[0].rpartition(":")[2]
    return Run(space, bench, job, found[0], output, steps, Progress(space.api.kubeconfig, space.name, job))


def start(
    space: Space,
    bench: Workbench,
    *,
    nodes: str,
    steps: int,
    name: str = "run",
    options: Sequence[str] = (),
    arguments: Sequence[str] = (),
    config: Path | None = None,
) -> Run:
    """Submit the demo world's run, in the quick image.

    Args:
        space: the namespace of the job.
        bench: what it reads, and where its output goes.
        nodes: value of `-j`, such as 1:2x1.
        steps: outer steps of the run.
        name: of the job.
        options: further run options, as key=value.
        arguments: further arguments of the component.
        config: another config than the demo world's.
    """
    env = {entry["name"]: entry["value"] for entry in mounted.pod_parts()["container"]["env"]}
    words = ["--config", str(config or bench.config(steps)), "-j", nodes, "--image", images.BARE]
    words += ["--cpu", "1", "--memMB", "2048", "--mounts", bench.mounts()]
    words += ["--env", ",".join(f"{key}={value}" for key, value in env.items()), *arguments]
    return submit(space, bench, *words, steps=steps, name=name, options=[f"run_as_user={USER}", *options])
