"""What every part shares: the cache folder, the pinned versions, the one kind of error shown to a person."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent


class ClusterError(Exception):
    """Something a person must be told in one sentence; shown without a traceback."""


@cache
def versions() -> dict[str, Any]:
    """The pinned versions, as they stand in versions.toml."""
    return tomllib.loads((HERE / "versions.toml").read_text())


def cache_folder() -> Path:
    """Where everything built or downloaded is kept."""
    chosen = os.environ.get("CCLM_CLUSTER_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser().resolve() / "cclm-cluster"


def clusters_folder() -> Path:
    """Where running clusters keep their state, a folder each."""
    return cache_folder() / "clusters"


def missing_prerequisite() -> str | None:
    """One sentence that names what this machine lacks to own a cluster, or None."""
    if sys.platform != "linux":
        return f"a test cluster needs Linux, and this is {sys.platform}; use --kubeconfig FILE with a cluster elsewhere"
    if platform.machine() != "x86_64":
        return f"a test cluster needs x86-64, and this is {platform.machine()}; use --kubeconfig FILE instead"
    if os.geteuid() != 0:
        return "a test cluster needs root (for network namespaces, cgroups and mounts), and this user is not root"
    needed = {
        "go": "Go",
        "apt-get": "apt-get (Debian's packages)",
        "dpkg-deb": "dpkg-deb",
        "ip": "ip (iproute2)",
        "tc": "tc (iproute2)",
        "nsenter": "nsenter (util-linux)",
        "setpriv": "setpriv (util-linux)",
        "unshare": "unshare (util-linux)",
        "openssl": "openssl",
    }
    absent = [name for program, name in needed.items() if shutil.which(program) is None]
    if absent:
        return f"a test cluster needs {', '.join(absent)}, which this machine does not have"
    if " - cgroup " not in Path("/proc/self/mountinfo").read_text():
        return (
            "a test cluster needs cgroup v1 hierarchies, which this machine does not have; "
            "use --kubeconfig FILE with a cluster made by another tool"
        )
    return None


def require_prerequisites() -> None:
    """Raise the sentence of `missing_prerequisite` if there is one."""
    sentence = missing_prerequisite()
    if sentence:
        raise ClusterError(sentence)


def say(text: str) -> None:
    """A line of progress for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def digest(*parts: str | bytes) -> str:
    """A short name for a content: the same parts give the same name on every machine."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:12]


def run(
    command: Sequence[str | Path],
    *,
    what: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | bytes | None = None,
    timeout: float = 600,
    bound: bool = False,
) -> str:
    """Run a program to its end and return its standard output; its last words become the error.

    `bound` is for what runs long and starts others: none of them outlives this process, whatever ends it.
    """
    if bound:
        command = contained(command)
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        done = subprocess.run(
            [str(part) for part in command],
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            env=None if env is None else dict(env),
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{what}: {command[0]} is not on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{what} did not finish within {timeout:g} s") from error
    if done.returncode != 0:
        said = (
            done.stderr.decode(errors="replace").strip() or done.stdout.decode(errors="replace").strip()
        ).splitlines()
        raise ClusterError(f"{what}: {' | '.join(said[-6:]) or f'exit status {done.returncode}'}")
    return done.stdout.decode(errors="replace")


def contained(command: Sequence[str | Path]) -> list[str | Path]:
    """The command line of a program that ends, with all that it starts, when the calling thread does."""
    # The kernel kills `unshare` when its parent ends, the program when `unshare` does, and with it, the first process
    # of a namespace, every process in there.
    return ["setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--", *command]


def wait_for(
    condition: Callable[[], Any],
    *,
    what: str,
    timeout: float,
    every: float = 0.2,
    why: Callable[[], str] | None = None,
) -> Any:
    """Ask until the answer is true and return it. Past the time limit raise a sentence that says what was missing.

    `why` is asked only then: it adds what a person would look at next.
    """
    end = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            reason = f": {why()}" if why else ""
            raise ClusterError(f"{what} did not happen within {timeout:g} s{reason}")
        time.sleep(every)


def remove_tree(folder: Path) -> None:
    """Remove a folder, or as much of it as can be removed; nothing happens if it is absent.

    Where the disk is told of every freed file (mount option `discard`), one after the other takes minutes.
    """
    files = []
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        files += [os.path.join(place, name) for name in names + links]

    def remove(file: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(file)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(remove, files))
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(name: str, *, shared: bool = False, wait: bool = True, forget: bool = False) -> Iterator[None]:
    """Hold a lock of the cache: two builds of one thing wait for each other instead of both doing it.

    The kernel lets go of it when the process ends, however it ends. `forget` removes the lock's file afterwards.

    Raises:
        BlockingIOError: with `wait=False`, if another holds it.
    """
    path = cache_folder() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        with path.open("w") as handle:
            fcntl.flock(handle, how if wait else how | fcntl.LOCK_NB)
            if not _is_file(path, handle.fileno()):
                continue  # its last holder has removed it meanwhile: others lock the file that took its place
            try:
                yield
            finally:
                if forget:
                    path.unlink(missing_ok=True)
            return


def _is_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def workplace(name: str) -> Iterator[Path]:
    """An empty folder in the cache for what is only half done; whole things are moved out of it to their places."""
    folder = cache_folder() / "unfinished" / name
    with locked(f"unfinished-{name}", forget=True):
        remove_tree(folder)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            remove_tree(folder)


def remove_unfinished() -> None:
    """Remove what killed builds left half done."""
    for folder in (cache_folder() / "unfinished").glob("*"):
        with (
            contextlib.suppress(BlockingIOError),
            locked(f"unfinished-{folder.name}", wait=False, forget=True),
        ):
            remove_tree(folder)
