"""The shape of a base model: what its config alone says about sizes, before any weight is loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets_cfg.errors import BadInput, one_line

SHAPES = Path(__file__).with_name("shapes.yaml")


@dataclass(frozen=True)
class Linear:
    """One matrix of a layer: its name in the model ("q_proj"), and its inputs and outputs per token."""

    name: str
    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Entries of the matrix, without a bias."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Decoder:
    """A dense decoder as transformers builds it.

    Attributes:
        layers: how many, all alike.
        linears: the matrices of one layer.
        norms: of one layer, the numbers that each norm normalizes per token.
        wide_norm: a norm that multiplies by its weight in fp32 (Gemma's), not in the dtype of the model.
        hidden: width of the residual stream; `intermediate` of the MLP; `heads`, `kv_heads`, `head_dim` of attention.
        vocab: rows of the embedding; `tied`: whether it is the head's matrix too.
        layer_parameters: of one layer, norms and biases included.
        parameters: of the model, tied ones once.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    linears: tuple[Linear, ...]
    norms: tuple[int, ...]
    wide_norm: bool
    layer_parameters: int
    parameters: int

    @property
    def head_parameters(self) -> int:
        """Entries of the matrix that makes logits."""
        return self.vocab * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Entries of the embedding that are not the head's too."""
        return 0 if self.tied else self.vocab * self.hidden

    @classmethod
    def of(cls, config) -> "Decoder":
        """The shape of a model with this transformers config; counted on transformers' own modules, without memory.

        Raises:
            BadInput: it is no decoder of the Llama kind (mixtures of experts, for one, are not known here).
        """
        import torch
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        try:
            with torch.device("meta"):  # the class itself: `from_config` would split the model under ZeRO-3
                model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
            layers = model.model.layers
            first = layers[0]
            head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            sizes = {
                "hidden": config.hidden_size,
                "intermediate": config.intermediate_size,
                "heads": config.num_attention_heads,
                "kv_heads": config.num_key_value_heads,
                "vocab": config.vocab_size,
            }
        except (AttributeError, KeyError, ValueError) as error:
            raise BadInput(
                f"a model of the type {config.model_type} cannot be planned ({one_line(error)}); "
                "known are decoders of the Llama, Mistral, Qwen and Gemma kind"
            ) from error
        linears, norms, wide_norm = [], [], False
        for path, module in first.named_modules():
            name = path.rpartition(".")[2]
            if isinstance(module, torch.nn.Linear):
                linears.append(Linear(name, module.in_features, module.out_features))
            elif type(module).__name__.endswith("Norm"):
                repeats = {"q_norm": config.num_attention_heads, "k_norm": config.num_key_value_heads}.get(name, 1)
                width = module.weight.numel()
                norms.append(width * repeats if width == head_dim else width)
                wide_norm = wide_norm or "Gemma" in type(module).__name__
        count = _parameters(first)
        of_matrices = sum(linear.parameters for linear in linears)
        if (
            any(_parameters(layer) != count for layer in layers)
            or count > 1.05 * of_matrices + 100 * config.hidden_size
        ):
            raise BadInput(
                f"a model of the type {config.model_type} cannot be planned: its layers are not alike, or hold more "
                "than attention and one MLP (a mixture of experts?)"
            )
        return cls(
            **sizes,
            layers=len(layers),
            head_dim=head_dim,
            tied=model.get_input_embeddings().weight is model.get_output_embeddings().weight,
            linears=tuple(linears),
            norms=tuple(norms),
            wide_norm=wide_norm,
            layer_parameters=count,
            parameters=_parameters(model),
        )


def _parameters(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def load_config(name: str, revision: str | None = None, *, say: Callable[[str], None] = lambda _: None):
    """The transformers config of a base: from a local folder or the hub's cache, from `shapes.yaml`, or from the hub.

    `say` is told where it came from if that is `shapes.yaml`.

    Raises:
        BadInput: none of them has it.
    """
    from transformers import AutoConfig

    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise BadInput(f"{name} is no model (it has no config.json); name a folder that holds one, or a hub id")
    revision = revision or "main"
    shipped = shapes().get(name) if revision == "main" else None
    try:
        # A base whose shape is known is not asked for on the network.
        return AutoConfig.from_pretrained(name, revision=revision, local_files_only=shipped is not None)
    except (OSError, ValueError) as error:
        if shipped is None:
            raise BadInput(
                f"the config of {name} cannot be had ({one_line(error)[:200]}); name a local folder with a "
                f"config.json, go online once, or take one of those known here: {', '.join(shapes())}"
            ) from error
    say(f"{name} is not on this machine yet; its shape is the one that Koala ships")
    return AutoConfig.for_model(**shipped)


def shapes() -> dict[str, dict]:
    """The configs that Koala ships, by hub id."""
    import yaml

    return yaml.safe_load(SHAPES.read_text(encoding="utf-8"))
