"""Builds the project's Dockerfile for real: a base image from Debian's packages, then buildah; once a content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from . import debs
from .common import PROJECT, cache_folder, digest, locked, run, say, versions, workplace

CONTEXT = (
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "LICENSE",
    "NOTICE",
    "cclm",
    "k8s",
    "torchx_components",
    "configs",
)
"""What .dockerignore lets into the build."""

LIGHT = ("WITHOUT=torch torchvision timm transformers scipy",)
"""Arguments of an image that only has to show that it is put together well: 5 of its 6 GB are left out."""
CPU_ONLY = ("CPU_ONLY=yes",)
"""Arguments of an image that trains without GPUs."""


# Mounts of its own: an interrupted build leaves none on the machine. Its cache under /var/lib lands in our store, and
# the libraries are found by the helpers that it starts with an empty environment.
_OWN_MOUNTS = """
set -e
mount -n -t proc proc /proc
mkdir -p "$1/var-lib" "$1/work"
mount -n -t overlay -o "lowerdir=/var/lib,upperdir=$1/var-lib,workdir=$1/work" cclm-lib /var/lib
mount -n -t overlay -o "lowerdir=$2:/usr/lib/x86_64-linux-gnu" cclm-libraries /usr/lib/x86_64-linux-gnu
shift 2
exec "$@"
"""


def base_image() -> Path:
    """A minimal Debian with Python as an image archive: what `BASE` stands for where no registry is reached."""
    table = versions()["debian"]
    key = digest(table["release"], *table["base"])
    target = cache_folder() / "images" / f"base-{key}.tar"
    with locked(target.name):
        if not target.exists():
            started = time.monotonic()
            say("making a base image from Debian's packages ...")
            with workplace(target.stem) as work:
                _make_base(work, target, table["release"], table["base"])
            say(f"made a base image in {time.monotonic() - started:.0f} s")
    return target


def base_reference(archive: Path) -> str:
    """The name of the base image in the builder's store: another base, another name."""
    return f"localhost/cclm/base:{archive.stem.removeprefix('base-')}"


def _make_base(work: Path, target: Path, release: str, packages: list[str]) -> None:
    root = debs.unpacked("images") / "root"
    # In mounts of its own: whatever debootstrap mounts goes with it.
    run(
        ["unshare", "--mount", "--propagation", "private", str(root / "usr/sbin/debootstrap"), "--variant=minbase"]
        + [f"--include={','.join(packages)}", release, str(work / "root")],
        what="make a base image",
        env={**os.environ, "DEBOOTSTRAP_DIR": str(root / "usr/share/debootstrap")},
        timeout=900,
        bound=True,
    )
    for name in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(work / "root" / name, ignore_errors=True)
    reference = base_reference(target)
    with _store():
        container = _buildah("from", "scratch").strip()
        _buildah("add", "--quiet", container, work / "root", "/")
        _buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
        _buildah("commit", "--quiet", container, reference)
    _export(reference, target)


@contextlib.contextmanager
def _store() -> Iterator[None]:
    """The builder's store for oneself, without half-built containers: neither those of killed builds nor one's own."""
    with locked("buildah-store"):
        _buildah("rm", "--all")
        try:
            yield
        finally:
            _buildah("rm", "--all")


def _export(reference: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with workplace(f"export-{target.stem}") as work:
        fresh = work / "image.tar"
        _buildah("push", "--quiet", reference, f"docker-archive:{fresh}:{reference}")
        os.replace(fresh, target)


def _content() -> str:
    """A digest of what git would commit of the files that go into the image."""
    wanted = ["Dockerfile", ".dockerignore", *CONTEXT]
    listed = run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *wanted],
        what="list the project's files",
        cwd=PROJECT,
    )
    total = hashlib.sha256()
    for name in sorted(set(listed.split("\0")) - {""}):
        path = PROJECT / name
        if path.is_file():
            total.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def project_image(arguments: tuple[str, ...] = LIGHT) -> Path:
    """The image of the working tree's Dockerfile as an archive, built unless one of the same content is there."""
    base = base_image()
    key = digest(_content(), base.name, *arguments)
    reference = f"localhost/cclm/cclm:{key}"
    target = cache_folder() / "images" / f"cclm-{key}.tar"
    with locked("project-image"):
        if target.exists():
            os.utime(target)
        else:
            started = time.monotonic()
            say("building the project's image ...")
            build(PROJECT, reference, *arguments, keep_layers=arguments == LIGHT)
            _export(reference, target)
            _forget_others(reference)
            _forget_archives(target)
            size = target.stat().st_size / 1e6
            say(f"built the project's image in {time.monotonic() - started:.0f} s ({size:.0f} MB)")
    return target


def build(context: Path, reference: str, *arguments: str, keep_layers: bool = True) -> None:
    """Build the Dockerfile of a folder on the base image, into the builder's store.

    Args:
        context: the folder.
        reference: name of the image.
        arguments: of the build, as in NAME=VALUE.
        keep_layers: keep what each instruction made for the next build; with PyTorch that has 12 GB.
    """
    archive = base_image()
    base = base_reference(archive)
    with _store():
        if reference_missing(base):
            _buildah("pull", "--quiet", f"docker-archive:{archive}")
        _buildah(
            "bud", "--quiet", "--isolation=chroot", "--network=host", f"--layers={str(keep_layers).lower()}",
            "--pull-never",
            f"--build-arg=BASE={base}", *(f"--build-arg={argument}" for argument in arguments),
            *_machine_settings(), f"--tag={reference}", f"--file={context / 'Dockerfile'}", context,
            timeout=3600,
        )  # fmt: skip


def _forget_archives(kept: Path) -> None:
    """Remove archives that nobody has used for a day: each is hundreds of megabytes. Another tree may use a younger."""
    for old in kept.parent.glob("cclm-*.tar"):
        if old != kept and old.stat().st_mtime < time.time() - 86400:
            old.unlink()


def _forget_others(kept: str) -> None:
    """Remove images of other contents from the builder's store; the layer with the requirements stays."""
    for image in json.loads(_buildah("images", "--json") or "[]"):
        for name in image.get("names") or []:
            if name.startswith("localhost/cclm/cclm:") and name != kept:
                forget(name)


def forget(reference: str) -> None:
    """Remove an image from the builder's store."""
    _buildah("rmi", reference)


def reference_missing(reference: str) -> bool:
    """Whether the builder's store lacks an image."""
    listed = json.loads(_buildah("images", "--json") or "[]")
    return not any(reference in (image.get("names") or []) for image in listed)


def _machine_settings() -> list[str]:
    """Lend the machine's way to its package index to the build, without leaving a trace in the image."""
    mounts = [path for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]
    return [f"--volume={path}:{path}:ro" for path in mounts]


def _buildah(*arguments: str | Path, timeout: float = 900) -> str:
    store = cache_folder() / "buildah"
    settings = store / "settings"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (settings / "registries.conf").write_text("unqualified-search-registries = []\n")
    (settings / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "{store}/run"\ngraphroot = "{store}/graph"\n'
    )
    (settings / "containers.conf").write_text("")
    (store / "tmp").mkdir(exist_ok=True)
    env = {
        **os.environ,
        **debs.environment("images"),
        "HOME": str(store),
        "TMPDIR": str(store / "tmp"),
        "XDG_RUNTIME_DIR": str(store / "tmp"),
        "CONTAINERS_CONF": str(settings / "containers.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(settings / "registries.conf"),
        "CONTAINERS_STORAGE_CONF": str(settings / "storage.conf"),
    }
    libraries = debs.unpacked("images") / "root/usr/lib/x86_64-linux-gnu"
    command = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _OWN_MOUNTS, "sh"]
    command += [str(store), str(libraries), str(debs.program("images", "buildah"))]
    policy = (
        [f"--signature-policy={settings / 'policy.json'}"] if arguments[0] in ("bud", "push", "pull", "commit") else []
    )
    words = [str(arguments[0]), *policy, *(str(argument) for argument in arguments[1:])]
    return run([*command, *words], what=f"buildah {arguments[0]}", env=env, timeout=timeout, bound=True)
