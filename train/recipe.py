"""What a recipe and its launch config say about how a run is spread and what it holds, read without TRL."""

import re
from pathlib import Path

from datasets_cfg.errors import BadInput, one_line

from .flops import Adapter
from .hardware import Hardware
from .memory import SIZES, Setup
from .precision import HALVES, auto_dtype


def read_mapping(file: Path, what: str) -> dict:
    """The content of a YAML file.

    Raises:
        BadInput: it is missing or no mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"the {what} {file} cannot be read: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise BadInput(f"the {what} {file} is no YAML mapping of settings to values")
    return content


def read_recipe(file: Path) -> tuple[dict, Path | None]:
    """A recipe, and the launch config that its comments name first (`--config_file FILE`), if there is one.

    Raises:
        BadInput: it is missing or no mapping.
    """
    recipe = read_mapping(file, "recipe")
    named = re.search(r"^#.*--config_file\s+(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    if named:
        # As written, it is relative to the project; the recipe may be elsewhere.
        for folder in (Path(), Path(__file__).parents[1]):
            if (folder / named[1]).is_file():
                return recipe, folder / named[1]
    return recipe, None


def sharding_of(launch: dict | None, devices: int) -> str:
    """How a launch config spreads a run over devices, as `train.memory.SHARDINGS` call it.

    Raises:
        BadInput: it does so in a way that is not known here.
    """
    kind = str((launch or {}).get("distributed_type", "MULTI_GPU")).upper()
    if kind == "FSDP":
        if int(launch.get("fsdp_config", {}).get("fsdp_version", 1)) != 2:
            raise BadInput("the launch config has FSDP's first version; set fsdp_version: 2")
        return "fsdp2"
    if kind == "DEEPSPEED":
        stage = launch.get("deepspeed_config", {}).get("zero_stage")
        if stage not in (3, None):
            raise BadInput(f"the launch config has ZeRO stage {stage}, which cannot be planned; take stage 3 or FSDP2")
        return "zero3"
    if kind not in ("NO", "FALSE", "MULTI_GPU", "MULTI_CPU"):  # YAML reads a bare NO as false
        raise BadInput(
            f"the launch config's distributed_type {kind} cannot be planned; take MULTI_GPU, FSDP or DEEPSPEED"
        )
    return "ddp" if devices > 1 else "none"


def setup_of(recipe: dict, hardware: Hardware, sharding: str) -> Setup:
    """What of a recipe decides about memory; what it lacks, or sets to None, is at TRL's defaults.

    Raises:
        BadInput: a value cannot be.
    """
    given = {key: value for key, value in recipe.items() if value is not None}
    peft = bool(given.get("use_peft"))
    half = "float16" if given.get("fp16") else "bfloat16" if given.get("bf16", True) else None
    if "mixed_precision" in given:
        half = HALVES.get(given["mixed_precision"])
    dtype = given.get("dtype", "float32")
    if dtype == "auto":
        dtype, _ = auto_dtype(half, adapters=peft, sharding=sharding)
    if dtype not in SIZES:
        raise BadInput(f"the recipe's dtype {dtype} is not known; take {', '.join(SIZES)} or auto")
    kernel = given.get("attn_implementation", "varlen")
    attention = {"sdpa": "sdpa_mask", "eager": "eager"}.get(kernel, "flash")
    # Kernels for variable lengths need a GPU and 16 bits; without them each conversation is computed by itself.
    if attention == "flash" and (hardware.device == "cpu" or (half is None and dtype == "float32")):
        attention = "pieces"
    checkpointing = given.get("activation_checkpointing", given.get("gradient_checkpointing", True))
    optim = given.get("optim", "adamw_torch_fused")
    return Setup(
        rows=int(number(recipe, "per_device_train_batch_size", 8)),
        length=int(number(recipe, "max_length", 1024)),
        accumulation=int(number(recipe, "gradient_accumulation_steps", 1)),
        dtype=dtype,
        mixed=half,
        checkpointing=bool(checkpointing),
        optim=str(getattr(optim, "value", optim)),
        adapter=adapter_of(given),
        dropout=float(number(recipe, "lora_dropout", 0.05)) if peft else 0.0,
        bits=4 if given.get("load_in_4bit") else 8 if given.get("load_in_8bit") else 16,
        nested=bool(given.get("use_bnb_nested_quant")),
        attention=attention,
        sharding=sharding,
        devices=hardware.count,
        residual_dropout=bool(given.get("dropout")),
    )


def adapter_of(recipe: dict) -> Adapter | None:
    """The LoRA of a recipe, if it has one.

    Raises:
        BadInput: its rank is no number.
    """
    if not recipe.get("use_peft"):
        return None
    targets = recipe.get("lora_target_modules") or ["q_proj", "v_proj"]  # PEFT's default for these families
    targets = [targets] if isinstance(targets, str) else list(targets)
    return Adapter(int(number(recipe, "lora_r", 16)), None if targets == ["all-linear"] else tuple(targets))


def number(recipe: dict, key: str, default: float) -> float:
    """A number of a recipe, or the default where it is not set or None.

    Raises:
        BadInput: it is none.
    """
    value = default if recipe.get(key) is None else recipe[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"the recipe sets {key} to {value}; it must be a number")
    return value
