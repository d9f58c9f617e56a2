"""How `accelerate launch` was told to spread the model over the processes."""

import os


def sharding() -> str:
    """ "none" where each process has the whole model; else "zero" (DeepSpeed), or "fsdp" and how it saves its state."""
    if _set("ACCELERATE_USE_DEEPSPEED"):
        return "zero"
    if _set("ACCELERATE_USE_FSDP"):
        return f"fsdp, {os.environ.get('FSDP_STATE_DICT_TYPE', 'SHARDED_STATE_DICT').lower()}"
    return "none"


def launch_config() -> dict:
    """What `train.plan` reads of a launch config, as far as this process was told."""
    if _set("ACCELERATE_USE_DEEPSPEED"):
        return {"distributed_type": "DEEPSPEED"}
    if _set("ACCELERATE_USE_FSDP"):
        version = os.environ.get("FSDP_VERSION", "1")
        return {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": version}}
    return {"distributed_type": "MULTI_GPU"}


def _set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1")
