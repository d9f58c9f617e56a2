"""What to change in a recipe that does not fit: the least harmful settings first, each checked by computing it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .decoder import Decoder
from .flops import Adapter
from .memory import SHARDED, Setup, memory


@dataclass(frozen=True)
class Remedy:
    """Changes to a recipe or its launch config that make it fit (or come nearest), and the bytes it then takes."""

    changes: tuple[str, ...]
    bytes: int
    fits: bool


# Each gives the changed setup and the change in words; the setup as it was where there is nothing to change.


def _checkpoint(setup: Setup) -> tuple[Setup, str]:
    return replace(setup, checkpointing=True), "gradient_checkpointing: true"


def _smaller(setup: Setup) -> tuple[Setup, str]:
    steps = setup.accumulation * setup.rows
    text = f"per_device_train_batch_size: 1, gradient_accumulation_steps: {steps} (the same rows a step)"
    return replace(setup, rows=1, accumulation=steps), text


def _shard(setup: Setup) -> tuple[Setup, str]:
    if setup.devices == 1 or setup.sharding in SHARDED:
        return setup, ""
    text = "launch with train/accelerate/fsdp2.yaml (weights, gradients and optimizer are split over the GPUs)"
    return replace(setup, sharding="fsdp2", dtype=_half(setup)), text


def _optimizer(setup: Setup) -> tuple[Setup, str]:
    if setup.sharding in SHARDED or setup.optim.endswith("8bit"):  # bitsandbytes takes no split tensors
        return setup, ""
    return replace(setup, optim="paged_adamw_8bit"), "optim: paged_adamw_8bit"


def _lora(setup: Setup) -> tuple[Setup, str]:
    if setup.adapter:
        return setup, ""
    text = "use_peft: true, lora_target_modules: all-linear, dtype: bfloat16 (LoRA)"
    return replace(setup, adapter=Adapter(16), dtype=_half(setup)), text


def _qlora(setup: Setup) -> tuple[Setup, str]:
    if not setup.adapter or setup.bits == 4 or setup.sharding in SHARDED:
        return setup, ""
    text = "load_in_4bit: true, use_bnb_nested_quant: true (QLoRA)"
    return replace(setup, bits=4, nested=True), text


def _half(setup: Setup) -> str:
    return setup.mixed or setup.dtype


_KNOBS: tuple[Callable[[Setup], tuple[Setup, str]], ...] = (
    _checkpoint,
    _smaller,
    _shard,
    _optimizer,
    _lora,
    _qlora,
)


def remedy(decoder: Decoder, setup: Setup, budget: int) -> Remedy:
    """The least harmful changes after which a device holds at most `budget` bytes; all there are if none is enough."""

    def turned(knobs: Sequence[Callable]) -> Remedy:
        now, changes = setup, []
        for knob in knobs:
            after, change = knob(now)
            if after != now:
                now, changes = after, [*changes, change]
        needed = memory(decoder, now).total
        return Remedy(tuple(changes), needed, needed <= budget)

    for last in range(1, len(_KNOBS) + 1):
        if turned(_KNOBS[:last]).fits:
            chosen = list(_KNOBS[:last])
            for knob in reversed(_KNOBS[:last]):  # leave out those that are not needed, the most harmful first
                fewer = [other for other in chosen if other is not knob]
                if turned(fewer).fits:
                    chosen = fewer
            return turned(chosen)
    return turned(_KNOBS)
