"""What GPUs can do at most, by the names that torch gives them."""

import pytest
import torch
from pytest import approx

from cclm.training.device_peak import peak_flops, peak_of


@pytest.mark.parametrize(
    ("name", "bfloat16", "tf32", "float32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12, 19.5e12),
        ("NVIDIA A100 80GB PCIe", 312e12, 156e12, 19.5e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12, 494.7e12, 66.9e12),
        ("NVIDIA H100 PCIe", 756e12, 378e12, 51.2e12),
        ("NVIDIA H100 NVL", 835.5e12, 417.5e12, 60e12),
        ("NVIDIA H200", 989.4e12, 494.7e12, 66.9e12),
        ("NVIDIA L4", 121e12, 60e12, 30.3e12),
        ("NVIDIA L40S", 362e12, 183e12, 91.6e12),
        ("NVIDIA A10", 125e12, 62.5e12, 31.2e12),
        ("NVIDIA A10G", 70e12, 35e12, 35e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 82.6e12, 82.6e12),
        ("Tesla V100-SXM2-16GB", None, None, 15.7e12),
        ("Tesla V100-PCIE-32GB", None, None, 14e12),
        ("Tesla T4", None, None, 8.1e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, None, None),
        ("NVIDIA B200", 2250e12, 1100e12, 75e12),
        ("NVIDIA H200 NVL", 835.5e12, 417.5e12, 60e12),
        ("NVIDIA A100-PCIE-40GB", 312e12, 156e12, 19.5e12),
        # Others than the table has, though their names begin alike.
        ("NVIDIA A100-SXM-64GB", None, None, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None, None),
        ("NVIDIA GeForce RTX 4090 D", None, None, None),
        ("NVIDIA GeForce RTX 3090 Ti", None, None, None),
        ("GRID A100-10C", None, None, None),
        ("Tesla V100S-PCIE-32GB", None, None, None),
        ("NVIDIA GB200", None, None, None),
        ("AMD Instinct MI300X", None, None, None),
    ],
)
def test_peak_of_a_name(name: str, bfloat16: float | None, tf32: float | None, float32: float | None) -> None:
    assert peak_of(name, uses_bfloat16=True, uses_tf32=False) == approx(bfloat16)
    assert peak_of(name, uses_bfloat16=False, uses_tf32=True) == approx(tf32)
    assert peak_of(name, uses_bfloat16=False, uses_tf32=False) == approx(float32)


def test_a_cpu_has_none() -> None:
    assert peak_flops(torch.device("cpu"), uses_bfloat16=True) is None
