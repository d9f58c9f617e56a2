"""What a training step holds on each device, by part, at its worst moment: arithmetic, before anything is loaded.

The bytes are those of tensors. A process has more: the device's context, the buffers of collectives, and the gaps that
an allocator leaves (see `train.plan.MARGIN`). What a layer saves for its backward follows transformers' own code for
Llama, Mistral, Qwen2, Qwen3 and Gemma, operation by operation; tests hold it against the tensors that PyTorch makes.
"""

from dataclasses import dataclass

from datasets_cfg.errors import BadInput

from .decoder import Decoder
from .flops import Adapter

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""

SHARDED = ("fsdp2", "zero3")
SHARDINGS = ("none", "ddp", *SHARDED)
ATTENTIONS = ("flash", "pieces", "sdpa_mask", "eager")
"""One kernel without a matrix of scores (FlashAttention, varlen, flex); the same, conversation by conversation (as
`train.attention` does without such a kernel); sdpa with a mask of packed rows; transformers' own code, with all
scores."""

HEADS = ("logits", "tiles", "tiles in torch")
"""`train.loss`: logits of the trained tokens; TRL's fused head with Triton's kernels, and without."""

# Bytes of optimizer state per trained parameter, and of what a step makes besides; None: of the parameter's own size.
# (states, bytes of each, temporary copies of all parameters at once). bitsandbytes keeps a state in a byte, with an
# fp32 scale per block of 256 (Dettmers et al. 2022); Adafactor's factored states are some thousandths.
_OPTIMIZERS: dict[str, tuple[int, float | None, int]] = {
    "adamw_torch_fused": (2, None, 0),
    "adamw_torch": (2, None, 1),  # its foreach kernels write the root of a moment for all parameters at once
    "adamw_8bit": (2, 1 + 4 / 256, 0),
    "adamw_bnb_8bit": (2, 1 + 4 / 256, 0),
    "paged_adamw_8bit": (2, 1 + 4 / 256, 0),
    "paged_adamw_32bit": (2, 4, 0),
    "paged_adamw": (2, 4, 0),
    "adafactor": (0, 0, 0),
    "lion_32bit": (1, 4, 0),
    "lion_8bit": (1, 1 + 4 / 256, 0),
    "sgd": (0, 0, 0),
}

# TRL's fused head (trl/kernels/chunked_logprob.py) works on tiles of so many tokens and vocabulary entries.
_TILE_TOKENS, _TILE_VOCAB = 4096, 32768

# Without Triton the backward of a tile makes copies in fp32: y, z, log p, p, the gradient, whether an entry is the
# target (in a byte and in fp32), and their difference.
_TILE_COPIES = 7 * 4 + 1

# train.loss makes the logits of so many tokens fp32 at a time: they, their log-softmax and a gradient, while the
# chunk's gradient in 16 bits, which is counted with the others, is not there yet.
_LOSS_TOKENS, _LOSS_COPIES = 1024, 3 * 4 - 2

# NF4 (Dettmers et al. 2023): half a byte, and a scale per block of 64: in fp32, or (double quantization) in a byte
# with an fp32 scale per 256 of them.
_NF4 = {False: 0.5 + 4 / 64, True: 0.5 + 1 / 64 + 4 / (64 * 256)}


# Which tensor a matrix of a layer reads, where it is not its own.
_READS = {"q_proj": "queries", "k_proj": "queries", "v_proj": "queries", "o_proj": "attention"}
_READS |= {"gate_proj": "mlp", "up_proj": "mlp"}


@dataclass(frozen=True)
class Setup:
    """What of a recipe, its launch config and the hardware decides about memory.

    Attributes:
        rows, length: of a micro-batch on one device; each row is taken as full.
        accumulation: micro-batches per step.
        dtype: in which the weights are loaded.
        mixed: "bfloat16" or "float16" if the trainer computes in it by autocast or FSDP; None if it does not.
        checkpointing: layers are computed again in the backward pass.
        optim: transformers' name of the optimizer.
        adapter: what is trained instead of the weights; `dropout` is its own.
        bits: of a frozen weight of a layer: 16 (as `dtype` says), 8 or 4; `nested`: NF4's scales are quantized too.
        attention: one of `ATTENTIONS`.
        sharding: one of `SHARDINGS`, over `devices`.
        head: one of `HEADS`.
        residual_dropout: embeddings and what a block adds are dropped in part (`train.dropout`).
    """

    rows: int
    length: int
    accumulation: int = 1
    dtype: str = "bfloat16"
    mixed: str | None = "bfloat16"
    checkpointing: bool = True
    optim: str = "adamw_torch_fused"
    adapter: Adapter | None = None
    dropout: float = 0.0
    bits: int = 16
    nested: bool = False
    attention: str = "flash"
    sharding: str = "none"
    devices: int = 1
    head: str = "logits"
    residual_dropout: bool = False

    @property
    def tokens(self) -> int:
        """Of a micro-batch."""
        return self.rows * self.length

    @property
    def shards(self) -> int:
        """Over how many devices the trained weights are split."""
        return self.devices if self.sharding in SHARDED else 1

    @property
    def computed(self) -> int:
        """Bytes of a number in the matrices' arithmetic."""
        return SIZES[self.mixed or self.dtype]

    @property
    def autocast(self) -> bool:
        """Whether fp32 weights are used by casting them at each matrix, so that the residual stream is fp32."""
        return self.dtype == "float32" and self.mixed is not None and self.sharding not in SHARDED

    @property
    def casts_inputs(self) -> bool:
        """Whether fp32 adapters stand beside matrices in fewer bits, so that PEFT casts what they read."""
        return self.adapter is not None and self.sharding not in SHARDED and self.stored != self.computed

    @property
    def stored(self) -> int:
        """Bytes of a trained weight, its gradient and its optimizer states.

        accelerate makes trained weights fp32 for FSDP2 with mixed precision (fsdp2_prepare_model). Adapters are fp32
        (PEFT), but bf16 beside a quantized base (TRL) and in the base's dtype under ZeRO-3 (TRL).
        """
        if self.sharding == "fsdp2" and self.mixed and self.bits == 16:
            return 4
        if self.adapter and self.sharding != "zero3":
            return 4 if self.bits == 16 else 2
        return SIZES[self.dtype]


@dataclass(frozen=True)
class Memory:
    """Bytes per device at the worst moment of a step.

    Attributes:
        moment: "loss head", "last layer" or "first layer" (in the backward pass), or "optimizer".
        weights, gradients, optimizer, activations, logits: what they are called.
        communication: gathered weights and reduced gradients, buckets.
    """

    moment: str
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    communication: int

    @property
    def total(self) -> int:
        """Of all parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """By name, in the order in which they are shown."""
        names = ("weights", "gradients", "optimizer", "activations", "logits", "communication")
        return {name: getattr(self, name) for name in names}


def trained_parameters(decoder: Decoder, adapter: Adapter | None) -> int:
    """How many parameters have gradients."""
    return decoder.layers * adapter.parameters(decoder.linears) if adapter else decoder.parameters


def memory(decoder: Decoder, setup: Setup) -> Memory:
    """The worst moment of a training step, after the first (the optimizer's states exist)."""
    trained = trained_parameters(decoder, setup.adapter)
    weights = round(_frozen(decoder, setup) + trained * setup.stored / setup.shards)
    optimizer, temporary = _optimizer(decoder, setup, trained)
    gradients = trained * setup.stored // setup.shards
    head_gradient = 0 if setup.adapter else decoder.head_parameters * setup.stored // setup.shards
    kept, reduced = _communication(decoder, setup, trained)
    # Between the micro-batches of a step the gradients are kept; a single one makes them as it goes.
    before = 0 if setup.accumulation == 1 else gradients

    saved, passing = layer_activations(decoder, setup)
    outside, entry = _outside_activations(decoder, setup)
    # The gradient of one matrix before it is added; of a quantized one its numbers, for one product.
    largest = max(linear.parameters for linear in decoder.linears) * setup.computed
    fresh = largest if not setup.adapter else 0
    passing += largest if setup.bits == 4 else 0
    if setup.checkpointing:
        # In fp32 the layer's first norm keeps the layer's input itself, which is counted already.
        saved -= entry if setup.computed == 4 or setup.autocast else 0
        held = decoder.layers * entry
        last, first = held + saved + passing, entry + saved + passing
    else:
        held = decoder.layers * saved
        last, first = held + passing, saved + passing
    of_layer = setup.adapter.parameters(decoder.linears) if setup.adapter else decoder.layer_parameters
    of_embedding = 0 if setup.adapter else decoder.embedding_parameters
    unmade = (of_layer + of_embedding) * setup.stored // setup.shards

    moments = [
        ("loss head", before, held + outside, _head(decoder, setup), reduced),
        ("last layer", max(before, head_gradient) + fresh, last, 0, reduced),
        ("first layer", max(before, gradients - unmade) + fresh, first, 0, reduced),
        ("optimizer", gradients + temporary, 0, 0, 0),
    ]
    return max(
        (
            Memory(moment, weights, held_gradients, optimizer, round(activations), logits, kept + moving)
            for moment, held_gradients, activations, logits, moving in moments
        ),
        key=lambda memory: memory.total,
    )


def _frozen(decoder: Decoder, setup: Setup) -> float:
    """Bytes of the weights that are not trained, on one device."""
    if not setup.adapter:
        return 0
    size = SIZES[setup.dtype]
    if setup.bits == 16:
        return decoder.parameters * size / setup.shards
    quantized = decoder.layers * sum(linear.parameters for linear in decoder.linears)
    # 8 bits: an fp32 scale per output. Quantized weights are not split (accelerate leaves them out of FSDP2).
    scales = decoder.layers * sum(4 * linear.outputs for linear in decoder.linears)
    packed = quantized * _NF4[setup.nested] if setup.bits == 4 else quantized + scales
    return packed + (decoder.parameters - quantized) * size / setup.shards


def _optimizer(decoder: Decoder, setup: Setup, trained: int) -> tuple[int, int]:
    """Bytes of the optimizer's states, and of what its step makes besides."""
    if setup.optim not in _OPTIMIZERS:
        raise BadInput(f"how much memory optim: {setup.optim} takes is not known; known are {', '.join(_OPTIMIZERS)}")
    states, size, copies = _OPTIMIZERS[setup.optim]
    count = trained / setup.shards
    total = count * states * (setup.stored if size is None else size)
    if size is not None and size < 2 and not setup.adapter:
        # transformers keeps the states of embeddings in fp32 (GlobalOptimManager).
        total += decoder.vocab * decoder.hidden / setup.shards * states * (4 - size)
    if setup.sharding == "zero3":
        # DeepSpeed's optimizer works on an fp32 copy of the weights, with fp32 states.
        total = count * (4 + states * (4 if size is None else size))
    return round(total), round(count * copies * setup.stored)


def _communication(decoder: Decoder, setup: Setup, trained: int) -> tuple[int, int]:
    """Bytes of buffers that last, and of those that only the backward pass needs."""
    if setup.sharding == "ddp":
        return trained * setup.stored, 0  # the buckets hold a copy of every gradient
    if setup.sharding not in SHARDED or setup.devices == 1:
        return 0, 0
    # The layer at work and the next, which is gathered meanwhile into a buffer of its own; the head stays gathered,
    # as it ends the forward pass and begins the backward.
    layer = (
        decoder.layer_parameters
        if setup.bits == 16
        else decoder.layer_parameters - sum(linear.parameters for linear in decoder.linears)
    )
    gathered = (3 * layer + decoder.head_parameters) * setup.computed
    of_adapter = setup.adapter.parameters(decoder.linears) if setup.adapter else layer
    # A layer's whole gradient, and the buffer from which it is reduced; by FSDP2 in float32, as train.trainer asks.
    reduced = 4 if setup.sharding == "fsdp2" else setup.computed
    return 0, gathered + of_adapter * (setup.computed + reduced)


def _head(decoder: Decoder, setup: Setup) -> int:
    """Bytes of the loss head at the worst moment of its backward, with every token counted as trained."""
    tokens, size = setup.tokens, setup.computed
    if setup.head == "logits":
        logits = tokens * decoder.vocab * size
        if size == 4:
            return 3 * logits  # they, their log-softmax, and the gradient of the one or the other
        # They and the gradients of the chunks; then either a chunk at work, or the gradients joined.
        chunk = min(tokens, _LOSS_TOKENS) * decoder.vocab
        return 2 * logits + max(chunk * _LOSS_COPIES, logits)
    tile = min(tokens, _TILE_TOKENS) * _TILE_VOCAB * size
    gradient = 4 * tokens * decoder.hidden + (0 if setup.adapter else 4 * decoder.head_parameters)
    # At the end the fp32 sums are given in the weights' dtype.
    given = 0 if size == 4 else gradient * size // 4
    if setup.head == "tiles":
        return tile + gradient + given
    copies = min(tokens, _TILE_TOKENS) * min(decoder.vocab, _TILE_VOCAB) * _TILE_COPIES
    return tile + gradient + max(given, copies)


def _outside_activations(decoder: Decoder, setup: Setup) -> tuple[float, float]:
    """Bytes that the model saves outside its layers, and bytes of a layer's input, on one device."""
    size = setup.computed
    residual = 4 if setup.autocast else size
    norm = decoder.hidden * (4 + _norm_weight(decoder, setup))
    selected = decoder.hidden * size if setup.head != "tiles in torch" else 0  # the trained positions, taken out
    rotary = 2 * decoder.head_dim * residual
    dropped = decoder.hidden if setup.residual_dropout else 0
    per_token = norm + decoder.hidden * residual + selected + rotary + dropped
    mask = setup.tokens if setup.attention == "sdpa_mask" else 0
    copied = decoder.head_parameters * size if setup.autocast else 0
    return setup.tokens * (per_token + mask) + copied, setup.tokens * decoder.hidden * residual


def _norm_weight(decoder: Decoder, setup: Setup) -> int:
    """Bytes per number that a norm saves for the gradient of its weight."""
    if setup.adapter:
        return 0
    return 4 if decoder.wide_norm or setup.autocast else setup.computed


def layer_activations(decoder: Decoder, setup: Setup) -> tuple[float, float]:
    """Bytes that one layer saves for its backward, and bytes that come and go in that backward, on one device."""
    size = setup.computed
    queries, keys = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    norms = sum(width * (4 + _norm_weight(decoder, setup)) for width in decoder.norms)

    # Queries and keys after the rotation, values, and what comes out; with a mask the keys and values of grouped
    # queries are written out for each of them.
    spread = setup.attention != "flash" and keys != queries
    attention = 2 * queries * size + 2 * (queries if spread else keys) * size + 4 * decoder.heads
    if setup.attention == "pieces":
        attention += queries * size  # what comes out, of each conversation and joined
    if setup.attention == "sdpa_mask":
        attention += setup.tokens * size  # the mask as numbers, of each layer
    if setup.attention == "eager":
        # The softmax in fp32, and again in the dtype of the model.
        width = setup.tokens if setup.head == "logits" else setup.length  # train.packing joins the rows
        attention += decoder.heads * width * (4 if size == 4 else 4 + size) - 4 * decoder.heads

    dropped = 2 * decoder.hidden if setup.residual_dropout else 0
    gated = 3 * decoder.intermediate * size  # gate, activated gate, up
    # Autocast keeps its copies of weights for the backward.
    copied = size * sum(linear.parameters for linear in decoder.linears) if setup.autocast else 0
    # In the MLP's backward three gradients of its width exist at once, when one saved tensor is gone.
    passing = 2 * decoder.intermediate * size + 2 * decoder.hidden * size
    if setup.adapter:
        targets = setup.adapter.of(decoder.linears)
        inputs = _adapter_inputs(decoder, setup) + len(targets) * setup.adapter.rank * size
        if setup.casts_inputs:
            copied = setup.adapter.parameters(decoder.linears) * size
            passing += 4 * max((linear.inputs for linear in targets), default=0)  # an input's gradient, in fp32
    else:
        # The inputs of the matrices (attention's output is counted above), once; autocast makes a copy for each.
        copies = 5 if setup.autocast else 2
        inputs = (copies * decoder.hidden + decoder.intermediate) * size
    return setup.tokens * (norms + attention + gated + dropped + inputs) + copied, setup.tokens * passing


def _adapter_inputs(decoder: Decoder, setup: Setup) -> int:
    """Bytes per token of the inputs that the adapters of one layer save."""
    targets = setup.adapter.of(decoder.linears)
    if setup.casts_inputs or setup.dropout:  # each its own copy, and dropout's mask
        return sum(linear.inputs for linear in targets) * (setup.computed + (1 if setup.dropout else 0))
    # Those that read the same tensor save it once; what attention gives is saved by its kernel.
    read = {_READS.get(linear.name, linear.name): linear.inputs for linear in targets}
    read.pop("attention", None)
    return sum(read.values()) * setup.computed
