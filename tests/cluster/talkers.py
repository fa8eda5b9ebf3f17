"""Jobs of shell loops that say what they do: started and asked by `torchx`, up in two seconds, without PyTorch."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import images
from .common import PROJECT, ClusterError, cache_folder, wait_for
from .kubectl import kubeconfig_environment
from .space import Space

FOREVER = (
    "trap 'echo saving; exit 143' TERM; i=0; while true; do i=$((i+1)); echo line $i of $HOSTNAME; "
    "sleep 0.1 & wait; done"
)
"""Writes numbered lines, and on SIGTERM saves and leaves."""
_COMPONENT = '''
import torchx.specs as specs


def talk(script: str, least: int = 1, most: int = 1, cpu: int = 0) -> specs.AppDef:
    """A shell script in one to several pods.

    Args:
        script: the script
        least: pods without which it does not go on
        most: pods at most
        cpu: cores of each; 0 asks for none
    """
    resource = specs.Resource(cpu=cpu, gpu=0, memMB=32)
    role = specs.Role(
        name="talker", image="{image}", entrypoint="sh", args=["-c", script], num_replicas=most,
        min_replicas=least, resource=resource,
    )
    return specs.AppDef(name="talk", roles=[role])
'''
_HANDLE = re.compile(r"kubernetes://\S+")


@dataclass(frozen=True)
class Command:
    """What a command of torchx printed, and its exit code."""

    out: str
    err: str
    code: int


def _environment(space: Space) -> dict[str, str]:
    """That of a user of this cluster and of the working tree, without TorchX settings of their own."""
    nothing = cache_folder() / "no-torchxconfig"
    nothing.touch()
    places = {"TORCHXCONFIG": str(nothing), "PYTHONPATH": str(PROJECT)}
    return {**kubeconfig_environment(space.api.kubeconfig), **places}


def torchx(space: Space, *words: str, **variables: str) -> Command:
    """Run torchx as a user of this cluster would."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "torchx"), *words],
        env={**_environment(space), **variables}, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Command(done.stdout, done.stderr, done.returncode)


@dataclass(frozen=True)
class Talker:
    """A submitted job."""

    space: Space
    handle: str
    """What torchx calls it."""

    @property
    def name(self) -> str:
        """Of the job."""
        return self.handle.rpartition(":")[2]

    def pod(self, index: int) -> str:
        """Name of a replica's pod."""
        return f"{self.name}-worker-{index}"

    def status(self) -> str:
        """What `torchx status` prints."""
        said = torchx(self.space, "status", self.handle)
        if said.code != 0:
            raise ClusterError(f"torchx status failed ({said.code}): {said.err[-1000:]}")
        return said.out

    def wait_status(self, *words: str, timeout: float = 240) -> str:
        """Wait until `torchx status` has all these words; what it says then."""
        return self.wait_status_like(*map(re.escape, words), timeout=timeout)

    def wait_status_like(self, *patterns: str, timeout: float = 240) -> str:
        """Wait until `torchx status` has all these regular expressions; what it says then."""
        found: list[str] = []

        def reached() -> bool:
            found[:] = [self.status()]
            return all(re.search(pattern, found[0]) for pattern in patterns)

        what = f"torchx status with {' and '.join(patterns)}"
        wait_for(reached, what=what, timeout=timeout, every=0.5, why=lambda: found[0])
        return found[0]

    def job(self) -> Any:
        """The PyTorchJob, None if it does not exist."""
        return self.space.api.get("pytorchjob", self.name)

    def wait_running(self, count: int) -> None:
        """Wait until the pods of so many replicas run."""
        for index in range(count):
            self.space.wait_phase(self.pod(index), "Running")

    @contextmanager
    def followed(self, folder: Path, replica: int | None = None, **variables: str) -> Iterator[Follower]:
        """`torchx log -t` in the background, of all replicas or of one."""
        place = self.handle if replica is None else f"{self.handle}/talker/{replica}"
        words = [str(Path(sys.executable).parent / "torchx"), "log", "-t", place]
        log = folder / "log"
        errors = folder / "log-errors"
        with log.open("w") as out, errors.open("w") as err:
            env = {**_environment(self.space), **variables}
            with subprocess.Popen(words, env=env, stdout=out, stderr=err) as process:
                try:
                    yield Follower(process, log, errors)
                finally:
                    process.kill()


class Follower:
    """A running `torchx log`."""

    def __init__(self, process: subprocess.Popen[bytes], file: Path, errors: Path) -> None:
        self._process, self._file, self._errors = process, file, errors

    def wait_line(self, text: str, times: int = 1) -> None:
        """Wait until it has printed a line that ends so, so many times."""
        wait_for(
            lambda: self._file.read_text().count(f"{text}\n") >= times,
            what=f"'{text}' in the log {times} times", timeout=240,
            why=lambda: self._file.read_text()[-500:] + self._errors.read_text()[-1000:],
        )  # fmt: skip

    def lines(self, timeout: float = 240) -> dict[int, list[str]]:
        """All lines by replica; waits for the end of the log."""
        if self._process.wait(timeout) != 0:
            errors = self._errors.read_text()[-1000:]
            raise ClusterError(f"torchx log failed ({self._process.returncode}): {errors}")
        found: dict[int, list[str]] = {}
        for line in self._file.read_text().splitlines():
            replica, _, text = re.sub("\x1b\\[[0-9;]*m", "", line).partition(" ")
            found.setdefault(int(replica.rpartition("/")[2]), []).append(text)
        return found


def submit(
    space: Space,
    folder: Path,
    script: str,
    *,
    least: int = 1,
    most: int = 1,
    cpu: int = 0,
    options: str = "",
    **variables: str,
) -> Command:
    """`torchx run` of a script, whatever comes of it; `options` are further run options."""  # fmt: skip
    component = folder / "talk.py"
    component.write_text(_COMPONENT.replace("{image}", images.TOOLS))
    chosen = ",".join(filter(None, [f"namespace={space.name}", "run_as_user=10001", "grace_seconds=5", options]))
    words = ["--script", script, "--least", str(least), "--most", str(most), "--cpu", str(cpu)]
    return torchx(space, "run", "-s", "kubernetes", "-cfg", chosen, f"{component}:talk", *words, **variables)


def start(space: Space, folder: Path, script: str, **settings: Any) -> Talker:
    """Submit a script that is expected to be accepted."""
    said = submit(space, folder, script, **settings)
    found = _HANDLE.search(said.out)
    if said.code != 0 or found is None:
        raise ClusterError(f"torchx run failed ({said.code}): {said.out[-500:]} {said.err[-1500:]}")
    return Talker(space, found[0])
