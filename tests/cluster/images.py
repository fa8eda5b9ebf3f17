"""Small images made without a builder: a few files in one layer, written as an archive that containerd imports."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import debs, gobuild, node
from .common import ClusterError, cache_folder, digest, locked, run, workplace

TOOLS = "localhost/cclm/tools:1"
BARE = "localhost/cclm/bare:1"
_NOBODY = "65532:65532"


def archive(
    reference: str,
    files: Mapping[str, Path | bytes],
    *,
    entrypoint: Sequence[str] = (),
    user: str = "",
    links: Mapping[str, str] | None = None,
) -> Path:
    """An image archive with these files (target path to source), made once for each content."""
    links = links or {}
    parts: list[str | bytes] = [reference, user, json.dumps(list(entrypoint)), json.dumps(dict(links), sort_keys=True)]
    for name, source in sorted(files.items()):
        # A built program's folder is named after its content, so its path says as much as its bytes.
        parts += [name, source if isinstance(source, bytes) else f"{source}:{source.stat().st_size}"]
    target = cache_folder() / "images" / f"{reference.rpartition('/')[2].replace(':', '-')}-{digest(*parts)}.tar"
    with locked(target.name):
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with workplace(target.name) as work:
                _write(work / "image.tar", reference, _layer(files, links), entrypoint, user)
                os.replace(work / "image.tar", target)
    return target


def _layer(files: Mapping[str, Path | bytes], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as layer:
        folders = {"tmp"} | {str(parent) for name in [*files, *links] for parent in list(Path(name).parents)[:-1]}
        for name in sorted(folders):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            layer.addfile(entry)
        for name, source in sorted(files.items()):
            data = source if isinstance(source, bytes) else source.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            layer.addfile(entry, io.BytesIO(data))
        for name, destination in sorted(links.items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, destination
            layer.addfile(entry)
    return buffer.getvalue()


def _write(target: Path, reference: str, layer: bytes, entrypoint: Sequence[str], user: str) -> None:
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": list(entrypoint) or None,
                "User": user,
                "Env": ["PATH=/usr/bin:/bin:/usr/sbin:/sbin"],
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": [reference], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(target, "w") as whole:
        for member, data in ((name, config), ("layer.tar", layer), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            whole.addfile(entry, io.BytesIO(data))


def pause() -> Path:
    """The image of the process that holds a pod's namespaces."""
    return archive(node.PAUSE_IMAGE, {"pause": gobuild.build("pause")}, entrypoint=["/pause"], user=_NOBODY)


def tools() -> Path:
    """A shell and the usual small programs: for pods that only have to be there, wait, write or fail."""
    busybox = debs.program("tools", "busybox")
    names = run([busybox, "--list"], what="list busybox's programs").split()
    links = {f"bin/{name}": "busybox" for name in names if name != "busybox"}
    files: dict[str, Path | bytes] = {"bin/busybox": busybox, "etc/passwd": b"root:x:0:0::/:/bin/sh\n"}
    return archive(TOOLS, files, links=links)


def bare() -> Path:
    """Nothing but empty folders: for pods that mount the machine's own programs and the working tree."""
    points = ["usr", "bin", "sbin", "lib", "lib64", "etc", "dev", "proc", "sys"]
    return archive(BARE, {f"{name}/.mounted-here": b"" for name in points})


def of_program(name: str, path: str) -> tuple[str, Path]:
    """The image of one Go program at `path`: its name and its archive."""
    reference = f"localhost/cclm/{name}:{gobuild.binary(name).parent.name.rpartition('-')[2]}"
    return reference, archive(reference, {path.lstrip("/"): gobuild.build(name)}, entrypoint=[path], user=_NOBODY)


@dataclass(frozen=True)
class Named:
    """What an image archive says of itself: the name, and the identity of the content under it."""

    reference: str
    identity: str
    """sha256 of the configuration, which lists the layers' digests: other contents, other identity."""


def described(image: Path) -> Named:
    """The name and the identity of the image in an archive."""
    try:
        with tarfile.open(image) as whole:
            manifest = json.load(_member(whole, "manifest.json"))[0]
            names = list(manifest["RepoTags"] or [])
            identity = hashlib.sha256(_member(whole, manifest["Config"]).read()).hexdigest()
    except (OSError, LookupError, TypeError, AttributeError, tarfile.TarError, ValueError) as error:
        raise ClusterError(f"{image} is not an image archive (docker-archive with a manifest.json)") from error
    if not names:
        raise ClusterError(f"the image archive {image} carries no name; write it with a tag")
    return Named(str(names[0]), identity)


def load(pid: int, image: Path, named: Named) -> None:
    """Import an image archive into the containerd of a machine, unless the same content has that name there."""
    # containerd knows an image by the digest of a manifest of its own making; so what was imported is written beside.
    label = "cclm.test/identity"
    client = node.containerd_client(pid, "images")
    same = f'name=="{named.reference}",labels."{label}"=="{named.identity}"'
    if run([*client, "ls", "-q", same], what="list images").strip():
        return
    run([*client, "import", str(image)], what=f"load {named.reference}", timeout=900)
    run([*client, "label", named.reference, f"{label}={named.identity}"], what=f"label {named.reference}")


def _member(whole: tarfile.TarFile, name: str) -> IO[bytes]:
    found = whole.extractfile(name)
    if found is None:
        raise LookupError(name)
    return found
