"""GPUs that are missing, of no use, or broken. `nvidia-smi` is a script that prints what the real one prints."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cclm.errors import NodeError, UserError
from cclm.preflight.gpus import (
    PromisedGpus,
    TorchGpus,
    _reason,
    check_enough,
    check_gpus,
    check_health,
    promised_gpus,
    torch_gpus,
)

FIRST = "0, GPU-5a1c, NVIDIA A100-SXM4-40GB, 550.54.15, 0, No, No, [N/A]"
SECOND = "1, GPU-77d0, NVIDIA A100-SXM4-40GB, 550.54.15, 0, No, No, [N/A]"
VERSIONS = "CUDA 13.0, NCCL 2.27.3"
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)
NO_FABRIC_MANAGER = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that "
    "might have already set an error? Error 802: system not yet initialized"
)


@pytest.fixture
def smi(program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes an nvidia-smi that prints some rows, and for the newer field of R565 another answer."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def write(*rows: str, action: str = 'echo "Field \\"gpu_recovery_action\\" is not a valid field"; exit 2') -> None:
        lines = "\n".join(rows)
        program("nvidia-smi", f'case "$1" in *recovery*) {action};; *) cat <<END\n{lines}\nEND\n;; esac')

    return write


@pytest.mark.parametrize(
    ("environment", "files", "number"),
    [
        ({}, [], 0),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, [], 0),  # as in NVIDIA's base images
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, [], 0),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"], 2),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-5a1c,GPU-77d0"}, [], 2),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-5a1c", "CUDA_VISIBLE_DEVICES": ""}, ["nvidia0"], 0),
        ({"NVIDIA_VISIBLE_DEVICES": "MIG-41b3,MIG-9c02"}, [], None),
    ],
)
def test_what_is_promised(tmp_path: Path, environment: dict[str, str], files: list[str], number: int | None) -> None:
    for name in files:
        (tmp_path / name).touch()
    promised = promised_gpus(environment, tmp_path)
    assert (0 if promised is None else promised.number) == number


def test_torch_answers_here() -> None:
    """On a machine without GPUs, torch says why; on one with some, which versions it brings."""
    gpus = torch_gpus()
    assert (gpus.number > 0) == (gpus.problem == "")


def test_a_driver_that_counts_gpus_while_cuda_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError(NO_FABRIC_MANAGER)

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)  # as NVML has it
    monkeypatch.setattr("torch.cuda.init", fail)
    gpus = torch_gpus()
    assert (gpus.number, gpus.problem) == (0, "Error 802: system not yet initialized")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TOO_OLD, "The NVIDIA driver on your system is too old (found version 12020)"),
        (NO_FABRIC_MANAGER, "Error 802: system not yet initialized"),
    ],
)
def test_the_reason_without_advice(text: str, reason: str) -> None:
    assert _reason(text) == reason


@pytest.mark.parametrize(
    ("problem", "advice"),
    [
        (TOO_OLD, "update the driver, or use a machine whose driver has at least CUDA 13.0"),
        (NO_FABRIC_MANAGER, "start nvidia-fabricmanager"),
        ("Found no NVIDIA driver on your system", "see to the NVIDIA container runtime"),
    ],
)
def test_promised_and_of_no_use(problem: str, advice: str) -> None:
    with pytest.raises(NodeError, match=r"^PyTorch can use no GPU here \(NVIDIA_VISIBLE_DEVICES=GPU-5a1c\): ") as error:
        check_gpus(PromisedGpus(1, "NVIDIA_VISIBLE_DEVICES=GPU-5a1c"), TorchGpus(0, _reason(problem), VERSIONS))
    assert _reason(problem) in str(error.value) and advice in str(error.value)


def test_a_torch_without_cuda() -> None:
    without = TorchGpus(0, "this PyTorch is built without CUDA", "")
    with pytest.raises(UserError, match="use an image with the CUDA build"):
        check_gpus(PromisedGpus(2, "NVIDIA_VISIBLE_DEVICES=GPU-5a1c,GPU-77d0"), without)
    assert check_gpus(PromisedGpus(1, "/dev/nvidia0"), without) == ""  # a choice, on a machine of one's own
    assert check_gpus(None, without) == ""


def test_one_of_them_is_missing(smi: Callable[..., None]) -> None:
    smi(FIRST)
    with pytest.raises(NodeError, match="^PyTorch can use 1 of the 2 GPUs that this machine should have"):
        check_gpus(PromisedGpus(2, "2 GPUs in /dev"), TorchGpus(1, "", VERSIONS))


def test_fewer_than_processes() -> None:
    with pytest.raises(UserError, match="^--nproc-per-node 8 needs 8 GPUs, but this machine has 4; "):
        check_enough(8, TorchGpus(4, "", VERSIONS))
    assert check_enough(8, TorchGpus(0, "", VERSIONS)) == ""  # on the CPU there may be any number


def test_healthy(smi: Callable[..., None]) -> None:
    smi(FIRST, SECOND.replace("0, No", "2, No"), action="echo '0, GPU-5a1c, None\n1, GPU-77d0, None'")
    assert check_gpus(PromisedGpus(2, ""), TorchGpus(2, "", VERSIONS)) == (
        "2 x NVIDIA A100-SXM4-40GB, driver 550.54.15; GPU 1 has counted 2 uncorrectable memory errors since its last "
        "reset; CUDA 13.0, NCCL 2.27.3"
    )


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (SECOND.replace("No, No, [N/A]", "Yes, No, [N/A]"), r"memory errors that a reset would repair \(remapped_rows"),
        (SECOND.replace("No, No, [N/A]", "No, Yes, [N/A]"), r"memory errors that cannot be repaired"),
        (
            SECOND.replace("No, No, [N/A]", "[N/A], [N/A], Yes"),
            r"memory errors that a reset would repair \(retired_pages.pending\)",
        ),
    ],
)
def test_broken_memory(smi: Callable[..., None], row: str, problem: str) -> None:
    smi(FIRST, row)
    with pytest.raises(NodeError, match=rf"^GPU 1 \(GPU-77d0\) has {problem}"):
        check_health()
    smi(FIRST)
    assert check_health().startswith("1 x NVIDIA A100")


@pytest.mark.parametrize(("visible", "is_broken"), [("0", False), ("GPU-5a", False), ("0,1", True), ("MIG-1", True)])
def test_only_gpus_of_this_run_count(smi: Callable[..., None], visible: str, is_broken: bool) -> None:
    smi(FIRST, SECOND.replace("No, No, [N/A]", "No, Yes, [N/A]"))
    environment = {"CUDA_VISIBLE_DEVICES": visible}
    if is_broken:
        with pytest.raises(NodeError):
            check_health(environment)
    else:
        assert check_health(environment) == "1 x NVIDIA A100-SXM4-40GB, driver 550.54.15"


def test_a_gpu_is_lost(program: Callable[[str, str], None]) -> None:
    said = (
        "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.  Reboot the system to recover this GPU"
    )
    program("nvidia-smi", f"echo '{said}'; exit 15")
    with pytest.raises(NodeError, match="^nvidia-smi finds a GPU that does not answer: Unable to determine"):
        check_health()


def test_the_driver_asks_for_a_reset(smi: Callable[..., None]) -> None:
    smi(FIRST, SECOND, action="echo '0, GPU-5a1c, None\n1, GPU-77d0, Drain and Reset'")
    with pytest.raises(NodeError, match=r"^GPU 1 \(GPU-77d0\) needs: Drain and Reset"):
        check_health()


def test_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "health is not known" in check_health()
