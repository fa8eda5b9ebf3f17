"""Takes programs from Debian's packages without installing them: downloaded and unpacked into the cache.

Nothing is installed, so no service starts, no configuration changes and nothing has to be removed. The programs
use the machine's own shared libraries where it has them, and unpacked ones where it has not.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

from .common import ClusterError, cache_folder, digest, locked, run, say, versions, workplace


def _tree(group: str) -> Path:
    table = versions()["debian"]
    if group not in table["groups"]:
        raise ClusterError(f"versions.toml names no package group {group}; there are {', '.join(table['groups'])}")
    key = digest(table["release"], *sorted(table["groups"][group]))
    return cache_folder() / "debian" / f"{group}-{key}"


def unpacked(group: str) -> Path:
    """The root folder of a group of packages, fetched on first use."""
    tree = _tree(group)
    with locked(tree.name):
        if not (tree / "packages.json").exists():
            with workplace(tree.name) as work:
                _fetch(versions()["debian"]["groups"][group], work, tree)
    return tree


def _apt_options(lists: Path, archives: Path) -> list[str]:
    # Its own lists and archives: the machine's stay as they are, even if nobody ran `apt-get update` there.
    return [
        f"-oDir::State::lists={lists}",
        f"-oDir::Cache={archives.parent}",
        f"-oDir::Cache::archives={archives}",
        "-oDebug::NoLocking=1",
        "-oAPT::Sandbox::User=root",
        "-oAPT::Get::AllowUnauthenticated=false",
        "-oDpkg::Use-Pty=0",
    ]


def _fetch(packages: list[str], work: Path, tree: Path) -> None:
    started = time.monotonic()
    say(f"fetching packages {' '.join(packages)} ...")
    archives = work / "archives"
    lists = work / "lists"
    (archives / "partial").mkdir(parents=True)
    (lists / "partial").mkdir(parents=True)
    options = _apt_options(lists, archives)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    update = ["apt-get", *options, "-qq", "update"]
    run(update, what="read the list of packages", env=env, timeout=300, bound=True)
    run(
        # --reinstall: a package that the machine already has is unpacked all the same, so what is found
        # in the tree does not depend on what else was installed here.
        ["apt-get", *options, "-qq", "-y", "--no-install-recommends", "--reinstall", "--download-only", "install"]
        + packages,
        what=f"download {' '.join(packages)}",
        env=env,
        timeout=600,
        bound=True,
    )
    fresh = work / "tree"
    fresh.mkdir()
    found = {}
    for archive in sorted(archives.glob("*.deb")):
        name, version = run(
            ["dpkg-deb", "--showformat=${Package} ${Version}", "--show", archive], what=f"read {archive.name}"
        ).split()
        found[name] = version
        run(["dpkg-deb", "--extract", archive, fresh / "root"], what=f"unpack {archive.name}")
    missing = [name for name in packages if name not in found]
    if missing:
        raise ClusterError(f"the package manager did not deliver {', '.join(missing)}")
    (fresh / "packages.json").write_text(json.dumps(found, indent=1, sort_keys=True))
    shutil.rmtree(tree, ignore_errors=True)
    tree.parent.mkdir(parents=True, exist_ok=True)
    os.replace(fresh, tree)
    say(f"fetched {len(found)} packages in {time.monotonic() - started:.0f} s")


def packages(group: str) -> dict[str, str]:
    """Names and versions of what was unpacked."""
    found: dict[str, str] = json.loads((unpacked(group) / "packages.json").read_text())
    return found


def program(group: str, name: str) -> Path:
    """The file of a program in an unpacked group."""
    root = unpacked(group) / "root"
    for folder in ("usr/bin", "usr/sbin", "sbin", "bin", "usr/lib/cni"):
        path = root / folder / name
        if path.exists() or path.is_symlink():
            return path
    raise ClusterError(f"the packages {' '.join(versions()['debian']['groups'][group])} hold no program {name}")


def environment(*groups: str) -> dict[str, str]:
    """The variables with which unpacked programs find each other and their libraries."""
    roots = [unpacked(group) / "root" for group in groups]
    folders = [root / part for root in roots for part in ("usr/sbin", "usr/bin", "sbin", "bin")]
    libraries = [root / part for root in roots for part in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")]
    modules = [root / "usr/lib/x86_64-linux-gnu/xtables" for root in roots]
    return {
        "PATH": os.pathsep.join([*(str(folder) for folder in folders if folder.is_dir()), os.environ["PATH"]]),
        "LD_LIBRARY_PATH": os.pathsep.join(str(folder) for folder in libraries if folder.is_dir()),
        "XTABLES_LIBDIR": next((str(folder) for folder in modules if folder.is_dir()), ""),
    }
