"""Takes CUDA out of an installed PyTorch, for an image for machines without GPUs.

    python -m k8s.image.without_cuda    # in the environment that PyTorch is installed in

PyPI has only one PyTorch for Linux on x86-64, built with CUDA: 5 of the image's 6 GB are machine code of GPUs. The
one built without CUDA comes from PyTorch's own index, and where that is reached it is the better choice
(docs/image.md). Here the code of GPUs goes, and the code that calls it stays: without a GPU it is loaded, but never
called. `torch.cuda.is_available()` is False as on any machine without a GPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from k8s.image.libraries import Library

# Asked how many GPUs there are, and loaded by the profiler and the file reader: small, and left as they are.
REAL = {"libcudart.so.13", "libcupti.so.13", "libcufile.so.0"}
# Opened by PyTorch only when it computes on a GPU.
UNUSED = {"libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so"}
_GPU_CODE = (".nv_fatbin", "__nv_relfatbin")
_GPU_PACKAGES = re.compile(r"(nvidia-|cuda-|triton$)")


def main(site_packages: Path) -> None:
    """Take CUDA out of the PyTorch below a folder `site-packages`."""
    libraries = site_packages / "torch/lib"
    if not list(libraries.glob("libtorch_cuda.so")):
        print(f"{libraries}: this PyTorch was built without CUDA; nothing is left out")
        return
    nvidia = {path.name: path for path in (site_packages / "nvidia").rglob("lib*.so*")}
    # Headers are for compilers, of which the image has none.
    shutil.rmtree(site_packages / "torch/include", ignore_errors=True)
    for name in sorted(UNUSED):
        (libraries / name).unlink(missing_ok=True)
    before = sum(path.stat().st_size for path in [*libraries.glob("*.so*"), *nvidia.values()])
    needed: set[str] = set()
    for path in sorted(libraries.glob("*.so*")):
        library = Library.read(path)
        needed |= set(library.needed())
        path.write_bytes(library.without(*_GPU_CODE))
    # The last place where PyTorch's libraries look is the folder that they are in.
    for name in sorted(needed & nvidia.keys()):
        source = nvidia[name]
        (libraries / name).write_bytes(source.read_bytes() if name in REAL else Library.read(source).names_only())
    after = sum(path.stat().st_size for path in libraries.glob("*.so*"))
    print(f"libraries of PyTorch: {before / 1e6:.0f} MB, now {after / 1e6:.0f} MB")
    left = [dist.name for dist in metadata.distributions(path=[str(site_packages)])]
    gone = sorted(name for name in left if _GPU_PACKAGES.match(name.lower().replace("_", "-")))
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "--yes", "--quiet", *gone], check=True)
    print("left out:", " ".join(gone))


if __name__ == "__main__":
    main(Path(sysconfig.get_path("purelib")))
