"""Builds the Go programs from their published modules, and finds the manifests and charts inside them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any

from .common import HERE, ClusterError, cache_folder, digest, locked, remove_tree, run, say, versions, workplace


def _environment(scratch: Path | None = None) -> dict[str, str]:
    """Go's own downloads and object files stay in our cache; the machine's settings for proxies stay as they are."""
    root = cache_folder() / "go"
    env = dict(os.environ)
    env.update(
        GOPATH=str(root),
        GOMODCACHE=str(root / "mod"),
        GOCACHE=str(root / "build"),
        GOFLAGS="-mod=mod -buildvcs=false -trimpath",
        GOWORK="off",
        CGO_ENABLED="0",  # static: the same file runs on the machine and inside an image with nothing else in it
    )
    env.pop("GOBIN", None)
    if scratch is not None:
        env["GOTMPDIR"] = str(scratch)  # by default in /tmp, where a killed build would leave it
    return env


def _go(arguments: list[str], what: str, cwd: Path, scratch: Path | None = None) -> str:
    # Compiling is the longest part of a cold start and no one's most urgent work on a shared machine.
    nice = ["nice", "-n", "10"] if shutil.which("nice") else []
    command = [*nice, "go", *arguments]
    return run(command, what=what, env=_environment(scratch), cwd=cwd, timeout=3600, bound=True)


@cache
def module_folder(module: str, version: str) -> Path:
    """The unpacked source of a published module, downloaded on first use."""
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    answer = json.loads(_go(["mod", "download", "-json", f"{module}@{version}"], f"download {module} {version}", root))
    return Path(answer["Dir"])


def files_of(name: str) -> Path:
    """The source folder of an entry of versions.toml, for its manifests and charts."""
    table = versions()
    entry = table["go"].get(name) or table["files"].get(name)
    if entry is None:
        raise ClusterError(f"versions.toml names no module {name}")
    return module_folder(entry["module"], entry["version"])


def _staging_requirements(entry: dict[str, Any]) -> list[str]:
    """The go.mod lines that a module with ./staging folders needs when it is built from outside.

    Its own go.mod replaces k8s.io/X by ./staging/X, and a replacement counts only in the main module: so each
    is repeated with the version that was published together (Kubernetes v1.33.4 is k8s.io/X v0.33.4).
    """
    folder = module_folder(entry["module"], entry["version"])
    described = json.loads(_go(["mod", "edit", "-json", str(folder / "go.mod")], "read go.mod", folder))
    published = re.sub(r"^v1\.", "v0.", entry["version"])
    lines = [f"godebug {item['Key']}={item['Value']}" for item in described.get("Godebug") or []]
    lines += [
        f"require {item['Path']} {item['Version']}" for item in described["Require"] if item["Version"] != "v0.0.0"
    ]
    for item in described["Replace"]:
        if item["New"]["Path"].startswith("./"):
            path = item["Old"]["Path"]
            lines += [f"require {path} {published}", f"replace {path} => {path} {published}"]
    return lines


def _ldflags(entry: dict[str, Any]) -> str:
    flags = "-s -w"
    if entry.get("staging"):
        major, minor, _ = entry["version"].lstrip("v").split(".")
        package = "k8s.io/component-base/version"
        values = {"gitVersion": entry["version"], "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        flags += "".join(f" -X {package}.{key}={value}" for key, value in values.items())
    return flags


def binary(name: str) -> Path:
    """Where the program of this name is, or will be once built: the folder's name is its content's."""
    entry = versions()["go"].get(name)
    if entry is None:
        raise ClusterError(f"versions.toml names no program {name}; there are {', '.join(versions()['go'])}")
    sources = b""
    if "main" in entry:
        sources = (HERE / "go" / entry["main"] / "main.go").read_bytes()
    key = digest(json.dumps(entry, sort_keys=True), sources)
    return cache_folder() / "bin" / f"{name}-{entry['version']}-{key}" / name


def build(name: str) -> Path:
    """Build one program unless its file is there already, and return the file."""
    target = binary(name)
    if target.exists():
        return target
    with locked(target.parent.name), locked("objects", shared=True):
        if target.exists():
            return target
        started = time.monotonic()
        say(f"building {name} {versions()['go'][name]['version']} ...")
        with workplace(target.parent.name) as work:
            _compile(name, work, target)
        seconds = time.monotonic() - started
        size = target.stat().st_size / 1e6
        (target.parent / "built.json").write_text(json.dumps({"seconds": round(seconds, 1), "megabytes": round(size)}))
        say(f"built {name} in {seconds:.0f} s ({size:.0f} MB)")
    return target


def forget_objects() -> None:
    """Remove what the compiler kept (9 GB): the programs are built, and nobody builds just now."""
    with contextlib.suppress(BlockingIOError), locked("objects", wait=False):
        remove_tree(cache_folder() / "go" / "build")


def _compile(name: str, work: Path, target: Path) -> None:
    entry = versions()["go"][name]
    lines = [f"module cclm.test/{name}", "", "go 1.24.0"]
    if entry.get("staging"):
        lines += _staging_requirements(entry)
    if entry["module"]:
        lines.append(f"require {entry['module']} {entry['version']}")
    (work / "go.mod").write_text("\n".join(lines) + "\n")
    package = entry.get("package", ".")
    if "main" in entry:
        shutil.copy(HERE / "go" / entry["main"] / "main.go", work)
    fresh, scratch = work / "out", work / "scratch"
    scratch.mkdir()
    _go(["build", "-ldflags", _ldflags(entry), "-o", str(fresh), package], f"build {name}", work, scratch)
    target.parent.mkdir(parents=True, exist_ok=True)
    for link in entry.get("links", []):
        alias = target.parent / link
        alias.unlink(missing_ok=True)
        alias.symlink_to(name)
    os.replace(fresh, target)  # last: a file that is there is whole
