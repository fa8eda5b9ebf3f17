"""The process that owns a running cluster: it starts machines and programs, and takes all of it down at the end.

A *machine* is a set of Linux namespaces (processes, mounts, network) held by one process. When that process is
killed the kernel kills everything inside at once, drops the mounts, and destroys the network: exactly a power cut.
Each machine's holder dies with this supervisor, so nothing survives it either, whatever kills it.

It takes orders, one JSON object a connection, on a socket in the cluster's folder; `control.py` sends them.
Started as: python -m tests.cluster.supervisor FOLDER OWNER_PID
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import cgroups, linux
from .common import locked
from .forwarder import Forwarder
from .teardown import life_lock, remove_remains

# Private copies of what programs write at fixed places of the machine. /run holds sockets and network names,
# /var/log/containers is written by every kubelet, /var/lib/cni by every network plugin.
# -n: without it the first `mount` itself leaves a folder in /run.
# The kubelet sets some settings of the kernel; they have no namespaces, so each machine sees files of its own instead.
_MACHINE = r"""
set -e
mount -n -t tmpfs -o mode=755 cclm-run /run
for pair in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000
do
    private="/run/sysctl-$(echo "${pair%=*}" | tr / -)"
    echo "${pair#*=}" > "$private"
    mount -n --bind "$private" "/proc/sys/${pair%=*}"
done
mount -n -t tmpfs -o mode=755 cclm-log /var/log
mkdir -p "$1/lib" "$1/work"
mount -n -t overlay -o "lowerdir=/var/lib,upperdir=$1/lib,workdir=$1/work" cclm-lib /var/lib
exec "$2"
"""


class Supervisor:
    """The machines and programs of one cluster, by name."""

    def __init__(self, folder: Path, owner: int | None) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = json.loads((folder / "cluster.json").read_text())
        self.machines: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
        self.programs: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self.forwarders: dict[tuple[str, str, int], Forwarder] = {}
        self.owner: int | None = None
        if owner is not None:
            # A descriptor, not a number: the number may be given to another process later.
            self.owner = os.pidfd_open(owner)
        self.leaving = False

    # --- orders -----------------------------------------------------------------------------------------------

    def start_machine(self, machine: str) -> dict[str, Any]:
        """Make the namespaces of a machine and the process that holds them."""
        if self._alive(machine):
            raise ValueError(f"machine {machine} is running already")
        own = self.folder / machine
        own.mkdir(exist_ok=True)
        group = f"{self.settings['cgroup']}/{machine}/system"
        cgroups.create(group)

        def prepare() -> None:
            linux.die_with_parent()
            cgroups.join(group)

        holder = subprocess.Popen(
            ["unshare", "--pid", "--mount", "--net", "--mount-proc", "--propagation", "private"]
            + ["--kill-child=SIGKILL", "--", "sh", "-c", _MACHINE, "machine", str(own), self.settings["pause"]],
            preexec_fn=prepare,
            stdin=subprocess.DEVNULL,
            stdout=self._log(machine, "machine"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        end = time.monotonic() + 60
        while True:
            inside = linux.children(holder.pid)
            if inside and Path(f"/proc/{inside[0]}/comm").read_text().strip() == "pause":
                break
            if holder.poll() is not None or time.monotonic() > end:
                said = (self.folder / "logs" / machine / "machine.log").read_text()[-500:]
                raise ValueError(f"machine {machine} did not start: {said}")
            time.sleep(0.01)
        self.machines[machine] = (holder, inside[0])
        return {"pid": inside[0]}

    def kill_machine(self, machine: str) -> dict[str, Any]:
        """Cut the power of a machine: every process in it dies at once."""
        if machine not in self.machines:
            raise ValueError(f"there is no machine {machine}")
        holder, inside = self.machines.pop(machine)
        with contextlib.suppress(ProcessLookupError):
            os.kill(inside, signal.SIGKILL)
        holder.wait(timeout=30)
        for key in [key for key in self.programs if key[0] == machine]:
            self.programs.pop(key).wait(timeout=30)
        return {}

    def start(self, machine: str, name: str, command: list[str], env: dict[str, str]) -> dict[str, Any]:
        """Start a program inside a machine; its output goes to logs/MACHINE/NAME.log."""
        if not self._alive(machine):
            raise ValueError(f"machine {machine} is not running")
        previous = self.programs.get((machine, name))
        if previous is not None and previous.poll() is None:
            raise ValueError(f"{name} is running already on {machine}")
        group = f"{self.settings['cgroup']}/{machine}/system"

        def prepare() -> None:
            linux.die_with_parent()
            cgroups.join(group)

        inside = self.machines[machine][1]
        self.programs[machine, name] = subprocess.Popen(
            ["nsenter", f"--target={inside}", "--pid", "--mount", "--net", "--", *command],
            preexec_fn=prepare,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self._log(machine, name),
            stderr=subprocess.STDOUT,
            cwd=self.folder / machine,
            start_new_session=True,
        )
        return {}

    def stop(self, machine: str, name: str, number: int) -> dict[str, Any]:
        """Send a program a signal and wait until it is gone."""
        entry = self.programs.get((machine, name))
        if entry is None or entry.poll() is not None:
            raise ValueError(f"{name} is not running on {machine}")
        for pid in linux.children(entry.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        try:
            entry.wait(timeout=30)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{name} on {machine} did not end within 30 s of signal {number}") from error
        return {"exit": entry.returncode}

    def forward(self, machine: str, host: str, port: int) -> dict[str, Any]:
        """Open a port on the machine's loopback address that leads to an address inside; one for each address."""
        address = (machine, host, port)
        if address not in self.forwarders:
            self.forwarders[address] = Forwarder(self.machines[machine][1], (host, port))
        return {"port": self.forwarders[address].port}

    def list(self) -> dict[str, Any]:
        """Which machines and programs run."""
        return {
            "machines": {name: pid for name, (_, pid) in self.machines.items() if self._alive(name)},
            "programs": [
                {"machine": machine, "name": name, "exit": entry.poll()}
                for (machine, name), entry in self.programs.items()
            ],
        }

    def disown(self) -> dict[str, Any]:
        """Stay after the owner has ended, until told to leave."""
        if self.owner is not None:
            os.close(self.owner)
        self.owner = None
        return {}

    def leave(self) -> dict[str, Any]:
        """Take everything down and end."""
        self.leaving = True
        return {}

    # --- the rest ---------------------------------------------------------------------------------------------

    def _alive(self, machine: str) -> bool:
        return machine in self.machines and self.machines[machine][0].poll() is None

    def _log(self, machine: str, name: str) -> Any:
        folder = self.folder / "logs" / machine
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / f"{name}.log").open("ab")

    def answer(self, connection: socket.socket) -> None:
        """Read one order, carry it out, reply."""
        orders = {
            order.__name__: order
            for order in (
                self.start_machine, self.kill_machine, self.start, self.stop, self.forward, self.list,
                self.disown, self.leave,
            )
        }  # fmt: skip
        # The one who asked may have been killed while waiting, or only wanted to know whether anyone listens.
        with contextlib.suppress(OSError), connection, connection.makefile("rwb") as stream:
            line = stream.readline()
            if not line:
                return
            try:
                request = json.loads(line)
                reply = orders[request.pop("order")](**request)
            except Exception as error:  # whatever goes wrong belongs to the one who asked
                reply = {"error": f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"}
            stream.write(json.dumps(reply).encode() + b"\n")
            stream.flush()

    def serve(self) -> None:
        """Carry out orders until told to leave, or until the owner has ended."""
        listener = linux.unix_listen(self.folder / "control.sock")
        while not self.leaving:
            watched: list[Any] = [listener] + ([] if self.owner is None else [self.owner])
            ready, _, _ = select.select(watched, [], [], 1.0)
            if self.owner is not None and self.owner in ready:
                print("the owner has ended: taking the cluster down", flush=True)
                return
            if listener in ready:
                self.answer(listener.accept()[0])

    def take_down(self) -> None:
        """End every machine and remove what they leave."""
        for forwarder in self.forwarders.values():
            forwarder.close()
        for machine in list(self.machines):
            with contextlib.suppress(Exception):
                self.kill_machine(machine)
        remove_remains(self.folder)


def main(folder: Path, owner: int) -> None:
    """Serve one cluster until its end; whoever finds the lock free knows that nobody does."""
    with locked(life_lock(folder.name), forget=True):
        _serve(folder, owner)


def _serve(folder: Path, owner: int) -> None:
    if linux.start_time(owner) is None:
        remove_remains(folder)
        return
    supervisor = Supervisor(folder, owner)
    # A polite end of the machine ends the cluster too; the default would leave its control groups behind.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: setattr(supervisor, "leaving", True))
    try:
        supervisor.serve()
    finally:
        supervisor.take_down()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
