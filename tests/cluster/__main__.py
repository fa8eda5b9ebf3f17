"""python -m tests.cluster build | up | status | run COMMAND | load IMAGE | down"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from . import addons, debs, gobuild, kubectl, status
from .cluster import Cluster, build_core
from .common import ClusterError, clusters_folder, require_prerequisites, versions
from .teardown import sweep

# Built and fetched by `build` beside what a cluster needs: for rendering charts and checking rules.
EXTRAS = ("helm", "helm4", "prometheus", "promtool")
PACKAGE_EXTRAS = ("images",)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster", description="A real Kubernetes cluster on this machine."
    )
    parser.add_argument("--name", default="cclm", help="which cluster (several can be up; default: cclm)")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build and fetch what is missing into the cache")
    build.add_argument(
        "programs", nargs="*", help="only these (default: the core, helm, helm4, prometheus, promtool and buildah)"
    )
    build.add_argument("--all", action="store_true", help="what every option needs, too")
    up = commands.add_parser("up", help="bring a cluster up")
    up.add_argument("--nodes", type=int, default=2, help="worker nodes, 1 to 4 (default: 2)")
    up.add_argument(
        "--with", dest="options", action="extend", nargs="+", default=[], metavar="OPTION", type=_words,
        help=f"install these too, with spaces or commas between them: {', '.join(addons.OPTIONS)}",
    )  # fmt: skip
    commands.add_parser("status", help="what runs, what does not and why; exits 1 if something is unhealthy")
    run = commands.add_parser("run", help="run a command that finds the cluster by KUBECONFIG")
    run.add_argument("--inside", action="store_true", help="in the cluster's network, where pods and services answer")
    run.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    load = commands.add_parser("load", help="load an image archive (docker-archive) into every node")
    load.add_argument("image", type=Path)
    commands.add_parser("down", help="take the cluster down and remove everything it made")
    return parser


def _words(text: str) -> list[str]:
    """What commas separate."""
    return [word for word in text.split(",") if word]


def _build(programs: list[str], everything: bool) -> None:
    require_prerequisites()
    sweep()
    if programs:
        for name in programs:
            gobuild.build(name)
        return
    build_core()
    for name in EXTRAS:
        gobuild.build(name)
    for group in PACKAGE_EXTRAS:
        debs.unpacked(group)
    if everything:
        addons.build(list(addons.OPTIONS))
    gobuild.forget_objects()
    for name, entry in versions()["go"].items():
        if gobuild.binary(name).exists():
            print(f"{name:<20} {entry['version']:<12} {gobuild.binary(name)}")
    for group, names in versions()["debian"]["groups"].items():
        found = debs.packages(group)
        print(f"{group:<20} {', '.join(f'{name} {found[name]}' for name in names)}")


def _up(cluster: Cluster, nodes: int, options: list[str]) -> None:
    addons.check(options)
    cluster.check(nodes)
    build_core()
    addons.build(options)
    started = time.monotonic()
    cluster.up(nodes)
    try:
        addons.install(cluster, options)
        cluster.disown()
    except BaseException:
        cluster.down()
        raise
    print("\n".join(status.examine(cluster).lines))
    total = sum(cluster.resident_bytes().values())
    print(f"\nup in {time.monotonic() - started:.0f} s, {total / 1e9:.2f} GB resident")
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"kubectl: {kubectl.program()}")


def _run(cluster: Cluster, words: list[str], inside: bool) -> int:
    words = words[1:] if words[:1] == ["--"] else words
    if not words:
        raise ClusterError("run needs a command, such as: run kubectl get pods")
    if not cluster.up_now:
        raise ClusterError(f"the cluster {cluster.name} is not up (start it with `python -m tests.cluster up`)")
    env = kubectl.kubeconfig_environment(cluster.kubeconfig)
    if inside:
        env["KUBECONFIG"] = str(cluster.folder / "kubeconfigs" / "admin")
        words = ["nsenter", f"--target={cluster.pid('control')}", "--net", "--", *words]
    try:
        return subprocess.run(words, env=env, check=False).returncode
    except FileNotFoundError as error:
        raise ClusterError(f"there is no program {words[0]}") from error


def _status(cluster: Cluster) -> int:
    health = status.examine(cluster)
    print("\n".join(health.lines))
    if health.troubles:
        print("\nunhealthy:")
        print("\n".join(f"- {trouble}" for trouble in health.troubles))
    return 1 if health.troubles else 0


def main(arguments: list[str]) -> int:
    """Carry out one command; the exit status."""
    chosen = _parser().parse_args(arguments)
    cluster = Cluster(chosen.name)
    if chosen.command == "build":
        _build(chosen.programs, chosen.all)
    elif chosen.command == "up":
        _up(cluster, chosen.nodes, [name for names in chosen.options for name in names])
    elif chosen.command == "status":
        return _status(cluster)
    elif chosen.command == "run":
        return _run(cluster, chosen.words, chosen.inside)
    elif chosen.command == "load":
        print(cluster.load(chosen.image))
    else:
        require_prerequisites()
        if not cluster.folder.exists():
            others = [path.name for path in clusters_folder().glob("*") if Cluster(path.name).up_now]
            print(f"the cluster {cluster.name} is not up" + (f"; up are: {', '.join(others)}" if others else ""))
        cluster.down()
        sweep()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ClusterError as problem:
        sys.exit(f"python -m tests.cluster: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as problem:  # a folder that may not be written, a file where a folder should be, a full disk
        sys.exit(f"python -m tests.cluster: {problem}")
