"""The Dockerfile, by hadolint's rules and the house's own; and what it runs to take CUDA out of PyTorch."""

from __future__ import annotations

import ctypes
import fnmatch
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from cclm import __version__
from k8s.image.libraries import Library
from tests.cluster.builder import CONTEXT

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
PACKAGES = Path(sysconfig.get_path("purelib"))


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "hadolint"
    return subprocess.run([program, "--no-color", file], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_hadolint_finds_nothing() -> None:
    done = lint(ROOT / "Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(DOCKERFILE.replace(" --no-install-recommends", "").replace('CMD ["cclm", "--help"]', "CMD cclm"))
    assert {"DL3015", "DL3025"} <= set(re.findall(r"DL\d+", lint(file).stdout))


def test_the_base_is_pinned_by_digest_and_every_stage_starts_from_it() -> None:
    defaults = dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, flags=re.MULTILINE))
    assert re.fullmatch(r"docker\.io/library/python:[\w.-]+@sha256:[0-9a-f]{64}", defaults["BASE"])
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert stages == ["${BASE}", "base", "base", "fabric"]


def test_the_user_is_a_number_and_not_root() -> None:
    (user,) = [line.split()[1] for line in INSTRUCTIONS if line.startswith("USER ")]
    assert all(int(part) > 0 for part in user.split(":"))


def test_there_is_no_entry_point() -> None:
    assert not any(line.startswith("ENTRYPOINT") for line in INSTRUCTIONS)


def test_no_argument_or_variable_is_a_secret() -> None:
    """They can be read from the image's history."""
    names = re.findall(r"(?:^(?:ARG|ENV)\s+|\s)(\w+)=", "\n".join(line for line in INSTRUCTIONS if line[:3] != "RUN"))
    assert "PIP_OPTIONS" in names
    assert not [name for name in names if re.search("TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY", name, re.IGNORECASE)]


def test_labels_are_those_of_oci_and_of_this_version() -> None:
    names = set(re.findall(r"org\.opencontainers\.image\.([\w.]+)=", DOCKERFILE))
    assert names >= {"title", "description", "licenses", "version", "revision", "created", "base.name"}
    assert f"ARG VERSION={__version__}\n" in DOCKERFILE


def test_the_context_is_only_what_is_named() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule[0] == "!") == sorted(CONTEXT)
    excluded = [rule for rule in rules[1:] if rule[0] != "!"]
    copied = [path for name in CONTEXT for path in [ROOT / name, *(ROOT / name).rglob("*")] if path.is_file()]
    sent = [path for path in copied if not any(fnmatch.fnmatch(f"/{path.relative_to(ROOT)}", one) for one in excluded)]
    assert sum(path.stat().st_size for path in sent) < 5e6


def test_a_library_keeps_its_names_without_its_code(tmp_path: Path) -> None:
    source = PACKAGES / "nvidia/cudnn/lib/libcudnn.so.9"
    whole = Library.read(source)
    target = tmp_path / source.name
    target.write_bytes(whole.names_only())
    assert target.stat().st_size < source.stat().st_size / 4
    loaded = ctypes.CDLL(str(target))
    assert loaded.cudnnCreate and loaded.cudnnGetVersion
    with pytest.raises(AttributeError):
        loaded.no_such_function  # noqa: B018
    # What is linked against it asks for versions of symbols, too; the loader says if one is missing.
    ended = subprocess.run(
        [sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(target)!r}).cudnnGetVersion()"], capture_output=True
    )
    assert ended.returncode < 0  # by a signal: there is no code to run


def test_a_library_works_without_the_code_of_gpus(tmp_path: Path) -> None:
    folder = next(iter(PACKAGES.glob("nvidia/*/lib/libcublas.so.*"))).parent
    (source,) = folder.glob("libcublas.so.*")
    target = tmp_path / source.name
    target.write_bytes(Library.read(source).without(".nv_fatbin"))
    assert target.stat().st_size < source.stat().st_size / 4
    program = (
        "import ctypes, sys; ctypes.CDLL(sys.argv[1]); number = ctypes.c_int();"
        "status = ctypes.CDLL(sys.argv[2]).cublasGetProperty(0, ctypes.byref(number)); print(status, number.value)"
    )
    (needed,) = folder.glob("libcublasLt.so.*")
    done = subprocess.run([sys.executable, "-c", program, str(needed), str(target)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"0 {source.suffix[1:]}\n"), done.stderr


def test_needed_libraries_are_those_that_the_loader_takes() -> None:
    needed = Library.read(PACKAGES / "torch/lib/libtorch.so").needed()
    assert {"libtorch_cpu.so", "libc.so.6"} <= set(needed)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100)], ids=len)
def test_what_is_no_library_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.so").write_bytes(content)
    with pytest.raises(ValueError, match="no ELF library of 64 bits"):
        Library.read(tmp_path / "x.so")
