"""A Hugging Face tokenizer in GGUF's terms, recognised by its structure.

llama.cpp has two tokenizers for the Llama family. Its `gpt2` is byte-level BPE with one of a fixed set of
pre-tokenizers; its `llama` is SentencePiece's BPE, which joins the neighbours whose union has the highest score. What
is recognised here is only a claim: `compare` proves it on text.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_cfg.errors import BadInput

from .checkpoint import Checkpoint, read_json
from .pre_tokenizer import SPACE, byte_level_name, differing_part, has_space_prefix, text_rules

if TYPE_CHECKING:
    import gguf

NFKC = "koala.text_nfkc"
"""The key that says that texts are brought into Unicode's form NFKC before they are tokenized; GGUF has none."""

_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))

# Tokens that end an answer in llama.cpp by their text alone.
_ENDS_BY_TEXT = (
    *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"),
    *("<end_of_turn>", "<eos>", "</s>"),
)

# llama.cpp makes tokens of these texts control tokens, which no text can become, unless the metadata names them. Qwen's
# are not.
_FILL_IN = {
    "<|fim_prefix|>": "fim_pre",
    "<|fim_suffix|>": "fim_suf",
    "<|fim_middle|>": "fim_mid",
    "<|fim_pad|>": "fim_pad",
    "<|repo_name|>": "fim_rep",
    "<|file_sep|>": "fim_sep",
}


@dataclass(frozen=True)
class TokenizerFields:
    """The tokenizer's part of a GGUF's metadata.

    Attributes:
        model: llama.cpp's tokenizer, `gpt2` or `llama`.
        pre: llama.cpp's pre-tokenizer.
        tokens, types: string and `gguf.TokenType` of every row of the embedding.
        merges: `gpt2` only: the pairs in order of rank, `left right`.
        scores: `llama` only: one for each token, higher joins earlier.
        add_space_prefix: `llama` only: whether a text starts with a space of its own.
        special_ids: role (`bos`, `eos`, `eot`, `eom`, `unk`, `pad`, `fim_pre` …) → id.
        add_bos, add_eos: what the tokenizer does to a plain text.
        nfkc, joins_spaces: what must be done to a text before llama.cpp gets it; see `before_llama_cpp`.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] | None
    scores: list[float] | None
    add_space_prefix: bool
    special_ids: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    nfkc: bool = False
    joins_spaces: bool = False

    def before_llama_cpp(self, text: str) -> str:
        """The text as a program must give it to llama.cpp, so that its ids are the original tokenizer's."""
        if self.nfkc:
            text = unicodedata.normalize("NFKC", text)
        if self.joins_spaces:
            text = re.sub(" {2,}", " ", text.lstrip(" ")).rstrip(f" {SPACE}")
        return text


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's tokenizer as transformers loads it.

    Raises:
        BadInput: there is none, or transformers makes another tokenizer of the folder than its tokenizer.json is.
    """
    path = checkpoint.folder / "tokenizer.json"
    stored = read_json(path)

    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the libraries below raise whatever they like
        raise BadInput(f"{path}: transformers cannot load it: {' '.join(str(error).split())}") from error
    loaded = _structure(tokenizer)
    if part := differing_part(loaded, stored):
        raise BadInput(
            f"{path}: transformers ignores its {part} ({stored.get(part)}) and uses {loaded[part]}, so the ids "
            'would differ; set "tokenizer_class": "TokenizersBackend" in tokenizer_config.json if the model was '
            "trained with the tokenizer.json"
        )
    return tokenizer


def tokenizer_fields(tokenizer: Any, rows: int, stop_ids: list[int], folder: Path) -> TokenizerFields:
    """Translate a fast tokenizer for an embedding with `rows` rows.

    Args:
        tokenizer: as `load_tokenizer` gives it.
        rows: rows of the embedding; those that the tokenizer does not use are filled with `[PADn]`.
        stop_ids: ids that end an answer, as the generation config names them.
        folder: where the tokenizer comes from, for messages.

    Raises:
        BadInput: llama.cpp has no such tokenizer, or the embedding has fewer rows than the tokenizer has ids.
    """
    structure = _structure(tokenizer)
    model = structure["model"]
    where = folder / "tokenizer.json"
    if model.get("type") != "BPE":
        raise BadInput(f"{where}: a {model.get('type')} tokenizer cannot be converted; BPE can")
    sentencepiece = bool(model["byte_fallback"])
    if sentencepiece:
        missing = [byte for byte in _BYTES if byte not in model["vocab"]]
        if missing:
            raise BadInput(f"{where}: byte_fallback without the token {missing[0]}; llama.cpp needs all 256 bytes")
        pre, prefix = "default", has_space_prefix(structure, where)
        nfkc, joins_spaces = text_rules(structure)
    else:
        pre, prefix = byte_level_name(structure, where), False
        nfkc = joins_spaces = False
    vocabulary = _vocabulary(tokenizer, rows, folder)
    tokens, types = _tokens_and_types(vocabulary, structure, prefix, where)
    plain = tokenizer("a").input_ids
    return TokenizerFields(
        model="llama" if sentencepiece else "gpt2",
        pre=pre,
        tokens=tokens,
        types=types,
        merges=None if sentencepiece else [" ".join(_pair(merge)) for merge in model["merges"]],
        scores=_scores(vocabulary, model["merges"]) if sentencepiece else None,
        add_space_prefix=prefix,
        special_ids=_special_ids(tokenizer, stop_ids, where),
        nfkc=nfkc,
        joins_spaces=joins_spaces,
        add_bos=tokenizer.bos_token_id is not None and plain[0] == tokenizer.bos_token_id,
        add_eos=tokenizer.eos_token_id is not None and plain[-1] == tokenizer.eos_token_id,
    )


def stop_ids(checkpoint: Checkpoint) -> list[int]:
    """The ids that end an answer: `eos_token_id` of the generation config, else of the configuration; may be empty.

    Raises:
        BadInput: one of them is no id.
    """
    path = checkpoint.folder / "generation_config.json"
    source = read_json(path) if path.is_file() else {}
    ids = source.get("eos_token_id", checkpoint.config.get("eos_token_id"))
    if ids is None:
        return []
    ids = ids if isinstance(ids, list) else [ids]
    for token_id in ids:
        if not isinstance(token_id, int) or not 0 <= token_id < checkpoint.config["vocab_size"]:
            raise BadInput(f"{path}: eos_token_id {token_id!r} is not an id of the vocabulary")
    return ids


def add_tokenizer(writer: "gguf.GGUFWriter", fields: TokenizerFields) -> None:
    """Write the tokenizer into the metadata."""
    from gguf.constants import Keys

    writer.add_tokenizer_model(fields.model)
    writer.add_tokenizer_pre(fields.pre)
    writer.add_token_list(fields.tokens)
    writer.add_token_types(fields.types)
    if fields.merges is not None:
        writer.add_token_merges(fields.merges)
    if fields.scores is not None:
        writer.add_token_scores(fields.scores)
        writer.add_add_space_prefix(fields.add_space_prefix)
    if fields.joins_spaces:
        writer.add_remove_extra_whitespaces(True)
    if fields.nfkc:
        writer.add_bool(NFKC, True)
    for role, token in fields.special_ids.items():
        writer.add_uint32(getattr(Keys.Tokenizer, f"{role.upper()}_ID"), token)
    writer.add_add_bos_token(fields.add_bos)
    writer.add_add_eos_token(fields.add_eos)


def _structure(tokenizer: Any) -> dict[str, Any]:
    import json

    return json.loads(tokenizer.backend_tokenizer.to_str())


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _vocabulary(tokenizer: Any, rows: int, folder: Path) -> list[str | None]:
    """The token of each row of the embedding; None for rows that the tokenizer does not use."""
    by_id = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    if max(by_id) >= rows:
        raise BadInput(
            f"{folder}: the tokenizer has ids up to {max(by_id)} ({by_id[max(by_id)]!r}) but the embedding only {rows} "
            "rows; resize the embedding (model.resize_token_embeddings) and train the new rows, or remove the token"
        )
    return [by_id.get(token_id) for token_id in range(rows)]


def _tokens_and_types(
    vocabulary: list[str | None], structure: dict, prefix: bool, where: Path
) -> tuple[list[str], list[int]]:
    """The text of each row as llama.cpp looks for it, and its type."""
    from gguf import TokenType

    model = structure["model"]
    sentencepiece = bool(model["byte_fallback"])
    byte_tokens = frozenset(_BYTES if sentencepiece else ())
    added = {token["id"]: token for token in structure["added_tokens"]}
    taken = frozenset(vocabulary)
    merged = {"".join(_pair(merge)) for merge in model["merges"]} if sentencepiece else frozenset()

    def entry(token_id: int, token: str | None) -> tuple[str, TokenType]:
        if token is None:
            return _unused_name(token_id, taken), TokenType.UNUSED
        if token == model["unk_token"]:
            return token, TokenType.UNKNOWN
        if token_id not in added:
            return token, TokenType.BYTE if token in byte_tokens else TokenType.NORMAL
        if added[token_id]["special"]:
            return token, TokenType.CONTROL
        if added[token_id]["single_word"]:
            raise BadInput(
                f"{where}: the added token {token!r} counts only as a whole word (single_word), which llama.cpp does "
                "not know; set it to false and train with that"
            )
        if sentencepiece and token.strip(SPACE) == "" and token in merged:
            # Gemma's runs of spaces, which its merges make too. Only of ordinary tokens does llama.cpp show the spaces.
            return token, TokenType.NORMAL
        if sentencepiece and added[token_id]["normalized"]:
            if prefix:
                raise BadInput(
                    f"{where}: the added token {token!r} is found only after a space, since the tokenizer puts one "
                    'before the text that it looks for ("normalized": true), and llama.cpp does not; set it to false '
                    "and train with that"
                )
            # llama.cpp looks for it before spaces are replaced, transformers after it.
            return token.replace(SPACE, " "), TokenType.USER_DEFINED
        return token, TokenType.USER_DEFINED

    entries = [entry(token_id, token) for token_id, token in enumerate(vocabulary)]
    return [text for text, _ in entries], [int(token_type) for _, token_type in entries]


def _unused_name(token_id: int, taken: frozenset[str | None]) -> str:
    """A name that no token has; llama.cpp ends the process where two tokens share one."""
    name = f"[PAD{token_id}]"
    while name in taken:
        name = f"[{name}]"
    return name


def _scores(vocabulary: list[str | None], merges: list) -> list[float]:
    """A score for each token such that the highest score first is the lowest rank of a merge first."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(_pair(merge)), rank)
    # No merge makes the others, so they must not win against any that one makes.
    return [float(-ranks.get(token, len(merges))) for token in vocabulary]


def _special_ids(tokenizer: Any, stop_ids: list[int], where: Path) -> dict[str, int]:
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else next(iter(stop_ids), None)
    if eos is None:
        raise BadInput(
            f"{where}: no token ends an answer, and llama.cpp would take one by its number; name the eos_token in "
            "tokenizer_config.json or the eos_token_id in generation_config.json"
        )
    others = [token_id for token_id in stop_ids if token_id != eos]
    if len(others) > 2:
        others = [token_id for token_id in others if tokenizer.convert_ids_to_tokens(token_id) not in _ENDS_BY_TEXT]
    if len(others) > 2:
        raise BadInput(
            f"{where}: the generation config has the stop ids {stop_ids}; a GGUF holds three beside those that "
            "llama.cpp knows by their text"
        )
    vocabulary = tokenizer.get_vocab()
    named = {
        "bos": tokenizer.bos_token_id,
        "eos": eos,
        "unk": tokenizer.unk_token_id,
        "pad": tokenizer.pad_token_id,
        **dict(zip(("eot", "eom"), others, strict=False)),
        **{role: vocabulary.get(token) for token, role in _FILL_IN.items()},
    }
    return {role: token_id for role, token_id in named.items() if token_id is not None}
