"""`koala.json`: what a finished model was made of and how."""

import hashlib
import json
import math
import platform
from dataclasses import MISSING, fields
from pathlib import Path, PureWindowsPath
from typing import Any

from datasets_cfg.versions import versions

_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")

_ALWAYS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "learning_rate",
    "lr_scheduler_type",
    "weight_decay",
    "optim",
    "max_grad_norm",
    "dtype",
    "bf16",
    "max_length",
    "packing",
)
"""Arguments that are told even at their defaults, which may change with the next version of a library."""

_ALWAYS_OF_LORA = ("lora_r", "lora_alpha", "lora_dropout")

_SECRET = ("hub_token", "push_to_hub_token")


def recipe(koala, args, model_args) -> dict:
    """The recipe as it was given: the arguments that are not at their defaults, and those that matter most.

    To be called before a trainer is made, which changes its arguments. No secret is in it, and no path of this machine,
    of a file or folder only its name.

    Args:
        koala: the KoalaArguments, args: the SFTConfig, model_args: the ModelConfig of the run.
    """
    always = _ALWAYS + (_ALWAYS_OF_LORA if model_args.use_peft else ())
    return {**_chosen(koala, always), **_chosen(model_args, always), **_chosen(args, always)}


def card(
    recipe: dict,
    args,
    base: str,
    manifest: dict,
    ids_record: dict,
    training: dict,
    *,
    tokenizer_proof: str,
    state,
    parameters: int | None = None,
) -> dict:
    """The content of `koala.json`. No path of this machine is in it.

    Args:
        recipe: what `recipe` returned.
        args: the SFTConfig, for seed, device and number of processes.
        base: hub id or folder of the base model.
        manifest: the mixture's.
        ids_record: `Tokenized.record`, which counts conversations and tokens by source.
        training: steps, losses and speed (`train.metrics.summary`).
        tokenizer_proof: a sentence: how the base's tokenizer was checked.
        state: the TrainerState at the end, for the last evaluation.
        parameters: of the model (with an adapter's); counted before it is split over devices.
    """
    found = versions(*_LIBRARIES)
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"  # as datasets_cfg.build writes it
    return _finite(
        {
            "license": recipe.get("license"),
            "base_model": _name(base),
            "datasets": [source["title"] for source in manifest["sources"].values()],
            "language": ["en"],
            "parameters": parameters,
            "seed": args.seed,
            "mixture": {
                "name": manifest["mixture"],
                "content_sha256": manifest["content_sha256"],
                "manifest_sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
                "sources": {
                    name: {key: counts[key] for key in ("conversations", "tokens", "trained_tokens")}
                    for name, counts in ids_record["splits"]["train"]["sources"].items()
                },
            },
            "tokenizer": {"name": ids_record["tokenizer"], "proof": tokenizer_proof.replace(base, _name(base))},
            "recipe": recipe,
            "hardware": {"device": _device(args.device), "processes": args.world_size},
            "training": training,
            "evaluation": _evaluation(state.log_history),
            "commit": found.pop("commit"),
            "versions": found,
        }
    )


def _name(model: str) -> str:
    """A hub id as it is; of a folder or file on this machine its name alone."""
    path, windows = Path(model), PureWindowsPath(model)
    try:
        here = path.exists()
    except OSError:  # too long for a name
        here = False
    elsewhere = any(part == ".." or part.startswith("~") for part in path.parts)
    if here or path.is_absolute() or windows.drive or elsewhere:
        return windows.name or path.resolve().name  # which knows both kinds of slashes
    return model


def _chosen(arguments, always: tuple[str, ...]) -> dict:
    """The arguments that are not at their defaults, and those that are `always` told, as far as JSON can hold them."""
    chosen = {}
    for field in fields(arguments):
        value = getattr(arguments, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.init and field.name not in _SECRET and (value != default or field.name in always):
            try:
                chosen[field.name] = _without_paths(json.loads(json.dumps(value)))
            except TypeError:  # an object of a library
                continue
    return chosen


def _without_paths(value: Any) -> Any:
    if isinstance(value, str):
        return _name(value) if value else value
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    return value


def _device(device) -> str:
    """What the maker calls the device that this process computes on."""
    import torch

    told = getattr(getattr(torch, device.type, None), "get_device_name", None)
    return told(device) if told else f"{device.type} ({platform.machine()})"


def _evaluation(log: list[dict]) -> dict | None:
    """The last evaluation: step, loss (nats per token), perplexity and tokens, and losses by source; None without."""
    record = next((record for record in reversed(log) if "eval_loss" in record), None)
    if record is None:
        return None
    sources: dict[str, dict[str, float]] = {}
    for name in ("loss", "perplexity"):
        prefix = f"eval_{name}/"
        for key, value in record.items():
            if key.startswith(prefix):
                sources.setdefault(key[len(prefix) :], {})[name] = value
    told = {name: record[f"eval_{name}"] for name in ("loss", "perplexity", "tokens") if f"eval_{name}" in record}
    return {"step": record["step"], **told, "sources": sources}


def _finite(value: Any) -> Any:
    """The value with null for what JSON has no number for: a loss that is not a number, an infinite perplexity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
