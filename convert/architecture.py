"""A model in GGUF's terms: hyper-parameters, names of tensors, and what becomes of their weights on the way.

Names follow the `gguf` package's `TensorNameMap`; what differs from one architecture to the next is in `families`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasets_cfg.errors import BadInput

from .checkpoint import Checkpoint
from .families import ATTENTION, FAMILIES, MLP, Family, head_dim
from .rope import add_rope, rope_factors, rope_refusals

if TYPE_CHECKING:
    import gguf
    import torch

__all__ = [
    "TensorPlan",
    "add_hyperparameters",
    "context_length",
    "gguf_architecture",
    "has_tabulated_activation",
    "load_config",
    "notes",
    "permute",
    "plan_tensors",
    "rope_factors",
]

# Buffers that old checkpoints store; both sides compute them from the configuration.
_COMPUTED = ("rotary_emb.inv_freq",)


@dataclass(frozen=True)
class TensorPlan:
    """One tensor on its way from the checkpoint to the GGUF.

    Attributes:
        source, target: its name in the checkpoint and in the GGUF.
        shape: the same in both.
        permuted_heads: the heads whose rows are reordered by `permute`; None: they stay.
        offset: added to each weight.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    permuted_heads: int | None = None
    offset: float = 0.0

    def apply(self, weights: "torch.Tensor") -> "torch.Tensor":
        """The weights as llama.cpp wants them; of another type only if 16 bits could not hold the result."""
        if self.permuted_heads:
            weights = permute(weights, self.permuted_heads)
        return weights.float() + self.offset if self.offset else weights


def load_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's configuration as transformers understands it, with all defaults filled in.

    Raises:
        BadInput: another architecture, or a setting that llama.cpp would compute otherwise.
    """
    path = checkpoint.folder / "config.json"
    architectures = checkpoint.config.get("architectures") or ["(none named)"]
    if not (isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)):
        raise BadInput(f"{path}: architectures is not a list of names; copy the checkpoint again")
    architecture = architectures[0]
    if architecture not in FAMILIES:
        hint = "; of Gemma 3 only the text model (Gemma3ForCausalLM)" if architecture.startswith("Gemma3") else ""
        raise BadInput(
            f"{path}: the architecture {architecture} cannot be converted; known: {', '.join(FAMILIES)}{hint}"
        )

    from transformers import AutoConfig

    # Merging an adapter may have changed these two, so the checkpoint's word counts and not the file's.
    merged = {key: checkpoint.config[key] for key in ("vocab_size", "tie_word_embeddings") if key in checkpoint.config}
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False, **merged)
    except Exception as error:  # the configuration's own checks raise whatever they like
        raise BadInput(f"{path}: transformers refuses it: {' '.join(str(error).split())}") from error
    family = FAMILIES[architecture]
    if reason := next(_refusals(family, config), None):
        raise BadInput(f"{path}: {reason}; so the GGUF would be another model, and is not made")
    return config


def gguf_architecture(config: Any) -> str:
    """GGUF's name of the architecture, such as `llama`."""
    return _family(config).gguf


def has_tabulated_activation(config: Any) -> bool:
    """Whether llama.cpp looks the activation up in a table of 16-bit numbers (GELU), whatever the type of the file."""
    return _family(config).activation.startswith("gelu")


def context_length(config: Any) -> int:
    """Tokens up to which llama.cpp computes what transformers does: the model's context, or a window that it lacks."""
    window = _family(config).window(config) or config.max_position_embeddings
    return min(window, config.max_position_embeddings)


def notes(config: Any) -> list[str]:
    """Sentences on what the GGUF cannot do that the checkpoint can."""
    window = _family(config).window(config)
    if window is None or window >= config.max_position_embeddings:
        return []
    return [
        f"The model has a sliding window of {window} tokens, which llama.cpp does not have for it; predictions agree "
        f"up to there, so the GGUF's context length is {window} tokens instead of {config.max_position_embeddings}."
    ]


def plan_tensors(config: Any, checkpoint: Checkpoint) -> list[TensorPlan]:
    """What becomes of each tensor of the checkpoint, in the order of the GGUF.

    Raises:
        BadInput: a tensor is missing, has another shape than the configuration says, or is unknown.
    """
    import gguf

    family = _family(config)
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.gguf)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    permuted = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads} if family.permuted else {}
    plans = []
    for source, shape in _expected_shapes(family, config):
        stored = checkpoint.tensors.get(source)
        if stored is None:
            raise BadInput(f"{checkpoint.folder} has no tensor {source}, which its config.json calls for")
        if stored.shape != shape:
            raise BadInput(
                f"{stored.file}: the tensor {source} has the shape {list(stored.shape)}, "
                f"but config.json says {list(shape)}"
            )
        target = names.get_name(source, try_suffixes=(".weight", ".bias"))
        offset = family.norm_offset if source.endswith("norm.weight") else 0.0
        plans.append(TensorPlan(source, target, shape, permuted.get(source.split(".")[-2]), offset))
    # With tied heads transformers never reads lm_head, so a copy of it in the file means nothing.
    ignored = {"lm_head.weight"} if config.tie_word_embeddings else set()
    unknown = set(checkpoint.tensors) - {plan.source for plan in plans} - ignored
    if unknown := sorted(name for name in unknown if not name.endswith(_COMPUTED)):
        raise BadInput(
            f"{checkpoint.tensors[unknown[0]].file}: the tensor {unknown[0]} is not part of a "
            f"{config.architectures[0]} as config.json describes it, and leaving it out would change the model"
        )
    return plans


def add_hyperparameters(writer: "gguf.GGUFWriter", config: Any) -> None:
    """Write the shape of the network, its norms and its rope into the metadata."""
    family = _family(config)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    add_rope(writer, config)
    for method, value in family.own_metadata(config):
        getattr(writer, method)(value)


def permute(weights: "torch.Tensor", heads: int) -> "torch.Tensor":
    """Reorder the rows of q or k, of shape (heads · head_dim, …), from transformers' rope to llama.cpp's.

    transformers rotates the first half of a head against its second half, llama.cpp's `llama` rotates neighbours: row
    `i` of the one half and row `i` of the other become rows `2i` and `2i + 1`.
    """
    return weights.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weights.shape)


def _family(config: Any) -> Family:
    return FAMILIES[config.architectures[0]]


def _refusals(family: Family, config: Any) -> Iterator[str]:
    activation = getattr(config, family.activation_setting)
    if activation != family.activation:
        yield f"the activation is {activation}, and llama.cpp's {family.gguf} knows only {family.activation}"
    yield from rope_refusals(family, config)
    for matrix in (*ATTENTION, *MLP):
        if family.has_bias(config, matrix) and matrix not in family.biases:
            yield f"{matrix} has a bias, and llama.cpp's {family.gguf} has none there"
    if not (config.tie_word_embeddings or family.may_untie):
        yield f"the head is not tied to the embedding, and llama.cpp's {family.gguf} has no head of its own"
    yield from family.refusals(config)


def _expected_shapes(family: Family, config: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * head_dim(config)
    keys = config.num_key_value_heads * head_dim(config)
    attention = ((queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries))
    mlp = ((inner, hidden), (inner, hidden), (hidden, inner))
    matrices = {**dict(zip(ATTENTION, attention, strict=True)), **dict(zip(MLP, mlp, strict=True))}
    yield "model.embed_tokens.weight", (config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        for name in family.norms:
            yield f"{prefix}.{name}.weight", (hidden,)
        if family.head_norms:
            for name in ("q_norm", "k_norm"):
                yield f"{prefix}.self_attn.{name}.weight", (head_dim(config),)
        for name, shape in matrices.items():
            yield f"{prefix}.{name}.weight", shape
            if family.has_bias(config, name):
                yield f"{prefix}.{name}.bias", shape[:1]
    yield "model.norm.weight", (hidden,)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (config.vocab_size, hidden)
