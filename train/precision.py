"""The types of numbers: in which a run computes, and in which a base's weights are loaded."""

from train.launch import sharding

HALVES = {"bf16": "bfloat16", "fp16": "float16"}
"""PyTorch's name of the type that accelerate's `mixed_precision` computes in; "no" has none."""


def weights_dtype(args, model_args) -> tuple[str, str]:
    """The name of the dtype, and why, in words.

    `dtype: auto` in a recipe leaves the choice to `auto_dtype`; anything else is taken as it is.

    Args:
        args, model_args: the SFTConfig and ModelConfig.
    """
    split = sharding()
    if model_args.dtype == "auto":
        return auto_dtype(HALVES.get(args.mixed_precision), adapters=model_args.use_peft, sharding=split)
    reason = "the recipe says so"
    if model_args.dtype == "bfloat16" and split == "none" and not model_args.use_peft:
        reason += "; updates below 1/256 of a weight are lost in it"
    return model_args.dtype, reason


def auto_dtype(half: str | None, *, adapters: bool, sharding: str) -> tuple[str, str]:
    """What `dtype: auto` means.

    Args:
        half: the 16-bit type in which products are computed, if there is one.
        adapters: whether the base is frozen.
        sharding: as `train.launch` or `train.memory` call it.
    """
    if half != "bfloat16":
        return "float32", "without bfloat16 products there is nothing smaller to load it in"
    if adapters:
        return half, "the base is frozen"
    if sharding.startswith("zero"):
        return half, "DeepSpeed keeps float32 copies of the weights, split over the processes"
    # FSDP2 makes float32 of what it trains, however it was loaded: 16 bits would only round the base.
    return "float32", f"these are the weights that are trained; the products are computed in {half}"
