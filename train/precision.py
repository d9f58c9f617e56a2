"""The type in which a base's weights are loaded."""

from train.launch import sharding


def weights_dtype(args, model_args) -> tuple[str, str]:
    """The name of the dtype, and why, in words.

    `dtype: auto` in a recipe leaves the choice to this function; anything else is taken as it is.

    Args:
        args, model_args: the SFTConfig and ModelConfig.
    """
    sharded = sharding() != "none"  # with a float32 copy of each trained weight, split over the processes
    if model_args.dtype != "auto":
        reason = "the recipe says so"
        if model_args.dtype == "bfloat16" and not (sharded or model_args.use_peft):
            reason += "; updates below 1/256 of a weight are lost in it"
        return model_args.dtype, reason
    if args.mixed_precision != "bf16":
        return "float32", "without bf16 there is nothing smaller to load it in"
    if model_args.use_peft:
        return "bfloat16", "the base is frozen"
    if sharded:
        return "bfloat16", "the float32 copies that are trained are split over the processes"
    return "float32", "these are the weights that are trained; the products are computed in bfloat16"
