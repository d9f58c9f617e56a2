"""What of TRL's and transformers' settings a recipe may not change, and which of them make a run what it is."""

import json
from dataclasses import dataclass, field

from datasets_cfg.batch_encoder import Format
from datasets_cfg.digest import digest
from datasets_cfg.errors import BadInput
from train.launch import sharding


@dataclass
class KoalaArguments:
    """What Koala adds to TRL's arguments."""

    mixture: str = field(metadata={"help": "Folder that `python -m datasets_cfg build` wrote."})
    license: str | None = field(default=None, metadata={"help": "License of the trained model, for its card."})
    dropout: float = field(
        default=0.0, metadata={"help": "Dropout of the embeddings and of what each block adds to the residual stream."}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Replace a finished model, or start an unfinished run over."}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print the plan, try two steps on a shrunk model, leave nothing behind."}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a share, at least 0 and less than 1, not {self.dropout}")


_PACKED = "conversations are tokenized, masked and packed by Koala, not by TRL"
_STOP = "runs are saved and resumed by themselves"
_ONLY: dict[str, tuple[object, str]] = {
    "packing": (True, "every row is packed; each conversation in it is by itself"),
    "packing_strategy": ("bfd", _PACKED),
    "padding_free": (False, "packed rows have no padding anyway"),
    "eval_packing": (None, _PACKED),
    "truncation_mode": ("keep_start", _PACKED),
    "shuffle_dataset": (False, "the rows of every epoch are shuffled by the seed anyway"),
    "completion_only_loss": (None, "the loss is on the assistant's turns; the mixture says which"),
    "assistant_only_loss": (False, "the loss is on the assistant's turns already; the mixture says which"),
    "dataset_text_field": ("text", _PACKED),
    "dataset_kwargs": (None, _PACKED),
    "chat_template_path": (None, "the template is datasets_cfg/koala.jinja"),
    "eos_token": (None, "the end token is the base's"),
    "pad_token": (None, "nothing is padded"),
    "loss_type": ("nll", "the loss is the cross entropy"),
    "label_smoothing_factor": (0.0, "the loss is the cross entropy"),
    "use_liger_kernel": (False, "it replaces the forward pass that computes the loss"),
    "average_tokens_across_devices": (True, "without it the loss depends on the number of processes"),
    "train_sampling_strategy": ("random", "packed rows are of one length"),
    "dataloader_drop_last": (False, "epochs are whole numbers of steps already"),
    "ignore_data_skip": (False, "a resumed run would see rows twice"),
    "auto_find_batch_size": (False, "the rows of a step would depend on the machine"),
    "save_only_model": (False, "nothing could be resumed from such checkpoints"),
    "enable_jit_checkpoint": (False, _STOP),
    "resume_from_checkpoint": (None, _STOP),
    "push_to_hub": (False, "look at the model first; then: hf upload NAME output_dir --exclude 'checkpoint-*'"),
    "include_num_input_tokens_seen": ("no", "num_tokens is logged anyway"),
    "neftune_noise_alpha": (None, "its noise is scaled by a conversation's length, and rows hold several"),
    "load_best_model_at_end": (False, "the finished model is that of the last step"),
    "model_init_kwargs": (None, "give dtype and attn_implementation by themselves"),
    "trust_remote_code": (False, "code from a model's repository is never run"),
}
"""The value that a setting must have, and why."""

_IDENTITY = (
    *("model_name_or_path", "model_revision", "dtype", "bf16", "fp16", "load_in_4bit", "load_in_8bit"),
    *("bnb_4bit_quant_type", "use_bnb_nested_quant", "use_peft", "lora_r", "lora_alpha", "lora_dropout"),
    *("lora_target_modules", "lora_target_parameters", "lora_modules_to_save", "use_rslora", "use_dora"),
    *("max_length", "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs"),
    *("warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("max_grad_norm", "dropout", "seed", "data_seed"),
)
"""The settings on which the trained weights depend, but for the batch, of which the product counts."""


def check(args, model_args) -> None:
    """Refuse settings that would be ignored, or that a recipe's other settings or this machine make impossible.

    Raises:
        BadInput: there is such a setting.
    """
    for name, (only, why) in _ONLY.items():
        for arguments in (args, model_args):
            if getattr(arguments, name, only) != only:
                raise BadInput(f"the recipe sets {name} to {getattr(arguments, name)}; Koala needs {only}: {why}")
    if args.max_length is None:
        raise BadInput("the recipe sets max_length to null; give the longest row in tokens")
    if model_args.model_name_or_path is None:
        raise BadInput("the recipe names no base model; give model_name_or_path")
    if (args.bf16 or model_args.dtype == "bfloat16") and args.device.type == "cuda":
        import torch

        if not torch.cuda.is_bf16_supported(including_emulation=False):  # transformers lets emulation pass
            raise BadInput(
                f"the recipe computes in bf16, which this GPU ({torch.cuda.get_device_name()}) lacks; "
                "set bf16: false, fp16: true and dtype: float32"
            )
    if args.n_gpu > 1:
        raise BadInput(
            f"one process sees {args.n_gpu} GPUs; launch one for each (docs/training.md), or show it "
            "one: CUDA_VISIBLE_DEVICES=0"
        )
    if model_args.load_in_4bit or model_args.load_in_8bit:
        if not model_args.use_peft:
            raise BadInput("a quantized base cannot be trained itself; set use_peft: true for adapters on it")
        if sharding() != "none":
            raise BadInput(
                "a quantized base is not split over GPUs; launch with train/accelerate/ddp.yaml or one_gpu.yaml"
            )
        _check_quantization()


def _check_quantization() -> None:
    from importlib.util import find_spec

    import torch

    if find_spec("bitsandbytes") is None:
        raise BadInput(
            "the recipe loads the base in 4 or 8 bits, which needs bitsandbytes; install it: pip install bitsandbytes"
        )
    if not torch.cuda.is_available():
        raise BadInput("the recipe loads the base in 4 or 8 bits, which needs a CUDA GPU; there is none here")


def identity(koala: KoalaArguments, args, model_args, manifest: dict, tokenizer, rows_per_step: int) -> dict:
    """What must be the same for a run to be resumed, as JSON can hold it.

    Args:
        koala, args, model_args: of the recipe.
        manifest: the mixture's.
        tokenizer: with the chat template.
        rows_per_step: of all processes and accumulated micro-batches.
    """
    format = json.dumps(Format.of(tokenizer).digests(), sort_keys=True)
    settings = {}
    for name in _IDENTITY:
        owner = next(arguments for arguments in (koala, args, model_args) if hasattr(arguments, name))
        value = getattr(owner, name)
        settings[name] = value if isinstance(value, bool | int | float | None) else str(value)
    return {
        "mixture": manifest["content_sha256"],
        "tokenizer": digest(format).hex(),
        "rows_per_step": rows_per_step,
        "sharding": sharding(),
        **settings,
    }
