"""Everything about a model that must be known before its weights are read."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets_cfg.errors import BadInput
from datasets_cfg.prompt import special_tokens

from .architecture import TensorPlan, load_config, notes, plan_tensors
from .checkpoint import own_dtype
from .metadata import Provenance, read_provenance, without_folders
from .source import Source
from .template import portable_template
from .tokenizer import TokenizerFields, load_tokenizer, stop_ids, tokenizer_fields

_LONGEST_NAME = 200
"""Bytes; file systems allow 255, and the type and the number of a part come after it."""


@dataclass(frozen=True)
class Model:
    """A model that can be converted.

    Attributes:
        source: where it lies.
        name: of the files.
        config: transformers' configuration.
        plans: what becomes of each tensor.
        file_type: of a GGUF that loses nothing: `F32`, `BF16` or `F16`.
        tokenizer: transformers'.
        fields: the same in GGUF's terms.
        stop_ids: that end an answer.
        chat_template: as it stands in the GGUF; None without one.
        provenance: what is known of its origin.
        notes: what the user must know.
    """

    source: Source
    name: str
    config: Any
    plans: list[TensorPlan]
    file_type: str
    tokenizer: Any
    fields: TokenizerFields
    stop_ids: list[int]
    chat_template: str | None
    provenance: Provenance
    notes: list[str]


def open_model(source: Source, *, name: str | None) -> Model:
    """Read the configuration, the tokenizer and the cards of an opened source.

    Raises:
        BadInput: something about it cannot be converted.
    """
    name = name or source.name
    if Path(name).name != name or "\\" in name:
        raise BadInput(f"--name {name}: a file name cannot hold a path; name the folder with --out")
    if not name.isprintable() or len(name.encode(errors="replace")) > _LONGEST_NAME:
        raise BadInput(
            f"--name {name!r}: a name is up to {_LONGEST_NAME} bytes of letters that can be printed; choose another"
        )
    _silence_transformers()
    config = load_config(source.checkpoint)
    plans = plan_tensors(config, source.checkpoint)
    tokenizer = load_tokenizer(source.tokenizer)
    # An adapter may come with a tokenizer of its own and without a generation config.
    owner = source.tokenizer if (source.tokenizer.folder / "generation_config.json").is_file() else source.checkpoint
    stops = stop_ids(owner)
    fields = tokenizer_fields(tokenizer, config.vocab_size, stops, source.tokenizer.folder)
    said = notes(config)
    if fields.joins_spaces or fields.nfkc:
        what = " and ".join(
            ["bring a text into Unicode's form NFKC"] * fields.nfkc + ["join runs of spaces"] * fields.joins_spaces
        )
        said = [
            *said,
            f"The tokenizer would {what}, which llama.cpp does not. koala-tui does it instead; in other programs such "
            "a text gives other tokens than in training (code with indentation, above all).",
        ]
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several templates by name
        template = tokenizer.chat_template = template.get("default")
    if template is not None:
        template = portable_template(template, special_tokens(tokenizer))
    else:
        said = [*said, "The checkpoint has no chat template, so chat programs will have to guess one."]
    return Model(
        source=source,
        name=name,
        config=config,
        plans=plans,
        file_type=own_dtype(source.checkpoint),
        tokenizer=tokenizer,
        fields=fields,
        stop_ids=stops,
        chat_template=template,
        provenance=_provenance(source),
        notes=said,
    )


def _provenance(source: Source) -> Provenance:
    """What the cards say; of an adapter whose card names no base, the base that its configuration names."""
    told = read_provenance(source.folder)
    named = source.adapter.config.get("base_model_name_or_path") if source.adapter else None
    if not named or told.base_models:
        return told
    # A folder of this machine must not read like somebody's repository.
    return replace(told, base_models=[Path(named).name if Path(named).is_dir() else without_folders(named)])


def _silence_transformers() -> None:
    """What transformers prints about loading is nothing that the user can act on."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
