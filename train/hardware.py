"""What is known of devices: peak FLOP/s and memory, from their makers' datasheets."""

import re
from dataclasses import dataclass, replace

from datasets_cfg.errors import BadInput

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A kind of GPU.

    Attributes:
        name: how `--hardware` calls it.
        pattern: finds it in what torch.cuda.get_device_name() says, spaces and case aside.
        bf16: dense tensor-core FLOP/s in bf16 with sums in fp32; None where there is no bf16.
        fp16: the same in fp16.
        memory: bytes that a program sees, in whole GiB: a little under the round number in the name.
        source: the maker's datasheet.
    """

    name: str
    pattern: str
    bf16: float | None
    fp16: float
    memory: int
    source: str


def _gpu(name: str, pattern: str, bf16: float | None, fp16: float, gib: int, source: str) -> Device:
    return Device(name, pattern, bf16 and bf16 * 1e12, fp16 * 1e12, gib * GIB, f"NVIDIA {source}")


# The first pattern that is found counts. Dense figures: half of what a datasheet gives "with sparsity". GeForce cards
# have the rate with sums in fp32, half of that with sums in fp16.
DEVICES = (
    _gpu("B200-180GB", r"\bB200\b", 2250, 2250, 178, "DGX B200 datasheet"),
    _gpu("GH200-96GB", r"\bGH200\b", 989.4, 989.4, 94, "GH200 Grace Hopper Superchip datasheet"),
    _gpu("H200-141GB", r"\bH200\b", 989.4, 989.4, 139, "H200 Tensor Core GPU datasheet"),
    _gpu("H100-NVL-94GB", r"\bH100 NVL\b", 835.5, 835.5, 93, "H100 NVL product brief"),
    _gpu("H100-PCIE-80GB", r"\bH100 PCIE\b", 756, 756, 79, "H100 Tensor Core GPU Architecture whitepaper, table 3"),
    _gpu("H100-80GB", r"\bH100\b", 989.4, 989.4, 79, "H100 Tensor Core GPU Architecture whitepaper, table 3"),
    _gpu("A100-80GB", r"\bA100\b.*\b80GB\b", 312, 312, 79, "A100 Tensor Core GPU datasheet"),
    _gpu("A100-40GB", r"\bA100\b", 312, 312, 39, "A100 Tensor Core GPU datasheet"),
    _gpu("A800-80GB", r"\bA800\b", 312, 312, 79, "A800 datasheet"),
    _gpu("L40S-48GB", r"\bL40S\b", 362.05, 362.05, 44, "L40S datasheet"),
    _gpu("L40-48GB", r"\bL40\b", 181.05, 181.05, 44, "L40 datasheet"),
    _gpu("L4-24GB", r"\bL4\b", 121, 121, 22, "L4 datasheet"),
    _gpu("A40-48GB", r"\bA40\b", 149.7, 149.7, 44, "A40 datasheet"),
    _gpu("A10G-24GB", r"\bA10G\b", 70, 70, 22, "A10G datasheet"),
    _gpu("A10-24GB", r"\bA10\b", 125, 125, 22, "A10 datasheet"),
    _gpu("RTX6000ADA-48GB", r"\bRTX 6000 ADA\b", 364.25, 364.25, 47, "Ada GPU Architecture whitepaper (professional)"),
    _gpu("RTXA6000-48GB", r"\bRTX A6000\b", 154.85, 154.85, 47, "Ampere GA102 whitepaper, RTX A6000"),
    _gpu("RTX5090-32GB", r"\bRTX 5090\b(?! (D|LAPTOP))", 209.5, 209.5, 31, "RTX Blackwell GPU Architecture whitepaper"),
    _gpu("RTX4090-24GB", r"\bRTX 4090\b(?! (D|LAPTOP))", 165.2, 165.2, 23, "Ada GPU Architecture whitepaper, table 2"),
    _gpu("RTX3090-24GB", r"\bRTX 3090\b(?! TI)", 71, 71, 23, "Ampere GA102 GPU Architecture whitepaper"),
    _gpu("V100-32GB", r"\bV100 SXM.*\b32GB\b", None, 125, 31, "V100 datasheet"),
    _gpu("V100-16GB", r"\bV100 SXM", None, 125, 15, "V100 datasheet"),
    _gpu("V100-PCIE-32GB", r"\bV100 PCIE.*\b32GB\b", None, 112, 31, "V100 datasheet"),
    _gpu("V100-PCIE-16GB", r"\bV100 PCIE", None, 112, 15, "V100 datasheet"),
    _gpu("T4-16GB", r"\bT4\b", None, 65, 14, "T4 datasheet"),
)


@dataclass(frozen=True)
class Hardware:
    """What a run gets: `count` equal devices.

    Attributes:
        count: GPUs (processes on the CPU).
        device: the name.
        memory: bytes of each.
        bf16, fp16: peak FLOP/s of each; None where it has no such arithmetic or the figure is not known.
    """

    count: int
    device: str
    memory: int
    bf16: float | None
    fp16: float | None

    def peak(self, dtype: str) -> float | None:
        """FLOP/s of one device in "bfloat16" or "float16"; None for others, and where it is not known."""
        return {"bfloat16": self.bf16, "float16": self.fp16}.get(dtype)

    def __str__(self) -> str:
        return f"{self.count}x{self.device}"


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Peak dense FLOP/s of a device, or None where it is not known.

    Args:
        device_name: as torch.cuda.get_device_name() gives it.
        dtype: "bfloat16" or "float16"; others have no entry here.
    """
    plain = re.sub(r"[\s_-]+", " ", device_name).upper()
    if re.search(r"\bMIG\b", plain):
        return None  # a slice of a device
    for device in DEVICES:
        if re.search(device.pattern, plain):
            return {"bfloat16": device.bf16, "float16": device.fp16}.get(dtype)
    return None


def here(count: int) -> Hardware:
    """The devices of `count` processes on machines like this one."""
    import torch

    if not torch.cuda.is_available():
        return parse(f"{count}xcpu")
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    bf16, fp16 = (peak_flops(properties.name, dtype) for dtype in ("bfloat16", "float16"))
    return Hardware(count, properties.name, properties.total_memory, bf16, fp16)


def parse(text: str) -> Hardware:
    """Hardware from what a user types.

    "8xA100-80GB" and "H100" name a device of the table (without a memory the largest of its name),
    "4xcustom:80GB:400TFLOPS" gives the numbers (the FLOP/s may be left out), "cpu" and "2xcpu:0.1TFLOPS" mean
    processes on this machine, which share its memory.

    Raises:
        BadInput: the text is none of these.
    """
    found = re.fullmatch(r"(?:(\d+)\s*[x×])?\s*([A-Za-z][\w .-]*)((?::[\w.]+)*)", text.strip())
    count = int(found[1] or 1) if found else 0
    if not found or not count:
        raise BadInput(f"--hardware {text} is not understood; write it like 8xA100-80GB, or 4xcustom:80GB:400TFLOPS")
    name, given = found[2].strip(), [part for part in found[3].split(":") if part]
    sizes = [_number(part, r"G(?:i?B)?", text) for part in given if "FLOP" not in part.upper()]
    rates = [_number(part, r"TFLOP(?:S|/S)?", text) for part in given if "FLOP" in part.upper()]
    if len(sizes) > 1 or len(rates) > 1:
        raise BadInput(f"--hardware {text} gives a number twice; write it like 4xcustom:80GB:400TFLOPS")
    rate = rates[0] * 1e12 if rates else None
    if name.lower() in ("cpu", "custom"):
        if name.lower() == "custom" and not sizes:
            raise BadInput(f"--hardware {text} does not say how much memory; write it like 4xcustom:80GB:400TFLOPS")
        memory = int(sizes[0] * GIB) if sizes else _machine_memory() // count
        return Hardware(count, name.lower(), memory, rate, rate)
    device = _named(name)
    if device is None:
        known = ", ".join(device.name for device in DEVICES)
        raise BadInput(
            f"no device {name} is known; known are {known}, cpu, and any other by its numbers: "
            f"{count}xcustom:80GB:400TFLOPS"
        )
    hardware = Hardware(count, device.name, device.memory, device.bf16, device.fp16)
    if rate:
        hardware = replace(hardware, bf16=rate, fp16=rate)
    return replace(hardware, memory=int(sizes[0] * GIB)) if sizes else hardware


def _named(name: str) -> Device | None:
    """The device of the table by its name, or by the part of it before the memory (then the largest)."""

    def plain(text: str) -> str:
        return re.sub(r"[\s_-]+", "", text).upper().removesuffix("GB")

    same = [device for device in DEVICES if plain(device.name) == plain(name)]
    family = [device for device in DEVICES if plain(device.name.rpartition("-")[0]) == plain(name)]
    return max(same or family, key=lambda device: device.memory, default=None)


def _number(text: str, unit: str, whole: str) -> float:
    found = re.fullmatch(rf"(\d+(?:\.\d+)?){unit}", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise BadInput(f"--hardware {whole}: {text} is no size; write it like 4xcustom:80GB:400TFLOPS")
    return float(found[1])


def _machine_memory() -> int:
    import os

    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
