"""Starts launchers of many nodes in no time: a process that has imported torch forks one for each line on stdin.

    python -m tests.integration.forked_nodes

A line is a JSON object: `folder` of the node's files, their `name`, `options` for torchrun. The answer is the process
id. NAME.err gets what the launcher says and NAME.exit its exit code. Training processes are a stub that writes
`RANK/WORLD_SIZE` to NAME.starts and waits until a file `finish` or `finish-NAME` is there; like one in a collective, it
does not notice when others are lost. Then it makes a file NAME.done and succeeds. SIGTERM ends it. A file `fail-NAME`
makes it end with the exit code in the file, or by that signal if it is negative, and is removed.
"""

import json
import os
import sys
import threading
from functools import partial
from pathlib import Path

from cclm.events import Journal
from cclm.launch import launcher, torchrun
from cclm.launch.console import ConsoleSink

STUB = """
import os, sys, time
name, launcher = sys.argv[1], os.getppid()
with open(name + ".starts", "a") as file:
    file.write(f"{os.environ['RANK']}/{os.environ['WORLD_SIZE']}\\n")
while not os.path.exists("finish") and not os.path.exists("finish-" + name):
    time.sleep(0.02)
    if os.getppid() != launcher:
        sys.exit()  # a node that is lost takes its processes along
    if os.path.exists("fail-" + name):
        with open("fail-" + name) as file:
            code = int(file.read())
        os.remove("fail-" + name)
        if code < 0:
            os.kill(os.getpid(), -code)
        sys.exit(code)
open(name + ".done", "w").close()
"""


def run_node(name: str, options: list[str]) -> int:
    """What one launcher does; returns its exit code."""
    parse = torchrun.parse_options

    def parse_and_replace(*args: object) -> torchrun.TorchrunSettings:
        config = parse(*args).config  # type: ignore[arg-type]  # handed on as they are
        return torchrun.TorchrunSettings(config, [sys.executable, "-S", "-c", STUB, name])

    torchrun.parse_options = parse_and_replace
    asked = launcher.LaunchOptions(["pretrain"], options, ["run"], "job", 5, 30, 600)
    return launcher.launch(asked, Journal([ConsoleSink()]))


def start(asked: dict) -> int:
    """Fork a launcher; returns its process id."""
    name = asked["name"]
    if child := os.fork():
        threading.Thread(target=partial(note_exit, child, os.path.join(asked["folder"], name)), daemon=True).start()
        return child
    code = 70
    try:
        os.setsid()
        os.chdir(asked["folder"])
        Path("run").mkdir(exist_ok=True)
        error = os.open(f"{name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(error, 2)
        os.dup2(error, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        code = run_node(name, asked["options"])
    finally:
        os._exit(code)


def note_exit(child: int, path: str) -> None:
    """Write how a launcher has ended, as `subprocess` says it."""
    _, status = os.waitpid(child, 0)
    Path(f"{path}.part").write_text(str(os.waitstatus_to_exitcode(status)))
    os.replace(f"{path}.part", f"{path}.exit")


def main() -> None:
    """Fork a launcher for each line."""
    for line in sys.stdin:
        print(start(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
