"""Devices by the names that drivers and users give them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets_cfg.errors import BadInput
from train.hardware import DEVICES, GIB, parse, peak_flops


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835.5e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA GH200 480GB", 989.4e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA L40S", 362.05e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A40", 149.7e12),
        ("NVIDIA RTX A6000", 154.85e12),
        ("NVIDIA RTX 6000 Ada Generation", 364.25e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 3090", 71e12),
        ("NVIDIA GeForce RTX 5090", 209.5e12),
        ("Tesla V100-SXM2-32GB", None),
        ("Tesla T4", None),
        # Not in the table, though a name in it is part of theirs.
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA A1000", None),
        ("AMD Instinct MI300X", None),
        ("", None),
    ],
)
def test_peaks_by_the_drivers_names(name, bf16):
    assert peak_flops(name, "bfloat16") == bf16


def test_older_devices_have_fp16():
    assert peak_flops("Tesla V100-SXM2-32GB", "float16") == 125e12
    assert peak_flops("Tesla V100-PCIE-16GB", "float16") == 112e12
    assert peak_flops("Tesla T4", "float16") == 65e12
    assert peak_flops("Tesla T4", "float32") is None


def test_hardware_by_a_users_words():
    hardware = parse("8xA100-80GB")
    assert (hardware.count, hardware.device, hardware.bf16) == (8, "A100-80GB", 312e12)
    assert 78 * GIB < hardware.memory <= 80 * GIB
    assert parse("A100") == parse("1 x a100-80gb")  # the largest of the name
    assert parse("h100").device == "H100-80GB"
    assert parse("RTX 4090").device == "RTX4090-24GB"
    assert parse("2xT4").peak("bfloat16") is None
    assert parse("2xT4").peak("float16") == 65e12
    assert parse("H100:0.5TFLOPS").bf16 == 0.5e12


@given(st.integers(1, 4096), st.floats(0.1, 1e4), st.floats(0.01, 1e5))
def test_hardware_by_its_numbers(count, memory, rate):
    hardware = parse(f"{count}xcustom:{memory:.3f}GB:{rate:.3f}TFLOPS")
    assert hardware.count == count
    assert hardware.memory == pytest.approx(memory * GIB, rel=0.01)
    assert hardware.bf16 == hardware.fp16 == pytest.approx(rate * 1e12, rel=0.1)
    assert parse(f"{count}xcustom:{memory:.3f}GB").bf16 is None


def test_every_device_is_found_by_its_own_name():
    for device in DEVICES:
        assert parse(f"3x{device.name}").device == device.name
        assert parse(device.name).memory == device.memory
        assert device.source


def test_the_cpu_has_the_memory_of_the_machine():
    one, two = parse("cpu"), parse("2xcpu:0.1TFLOPS")
    assert one.memory > GIB / 2
    assert two.memory == one.memory // 2
    assert one.bf16 is None
    assert two.bf16 == 0.1e12


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("8xZ9000", "known are .*A100-80GB.*8xcustom:80GB:400TFLOPS"),
        ("0xA100", "write it like"),
        ("", "write it like"),
        ("8", "write it like"),
        ("custom", "how much memory"),
        ("custom:80", "80 is no size"),
        ("custom:0GB", "0GB is no size"),
        ("custom:8GB:9GB", "twice"),
        ("custom:8GB:fastTFLOPS", "no size"),
    ],
)
def test_what_is_no_hardware_is_refused(text, said):
    with pytest.raises(BadInput, match=said):
        parse(text)
