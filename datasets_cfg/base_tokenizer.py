"""The tokenizer of a base model, proven before anything is tokenized or trained with it.

transformers 5 does not always load what the publisher of a base made. From a repository with only a SentencePiece
model (OpenLLaMA's) it makes a tokenizer that merges runs of spaces in another order, or none; and for some classes it
reads the vocabulary of a `tokenizer.json` but not its normalizer. Either gives ids that the base never saw. So the
ids are compared with those of the publisher's own file, and where they differ the tokenizer is made from that file.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BadInput, one_line
from .probe_texts import PROBE_TEXTS, SPACE_SIGN
from .prompt import control_tokens, koala_template
from .sentencepiece_model import SentencePieceModel, bpe_tokenizer, read_model

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_OTHER_SETTINGS = ("model_max_length", "padding_side", "truncation_side")
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")
_SHOWN_PIECES = 20


def load_tokenizer(name: str | Path, revision: str | None = None):
    """The tokenizer alone of what `base_tokenizer` gives."""
    return base_tokenizer(name, revision=revision)[0]


def base_tokenizer(name: str | Path, *, revision: str | None = None, texts: Iterable[str] = ()) -> tuple[Any, str]:
    """A fast Hugging Face tokenizer with the Koala template, and a sentence that says what has been proven of it.

    What it is compared with is SentencePiece with the base's `tokenizer.model`, or without one the base's
    `tokenizer.json` as the library `tokenizers` reads it. Where transformers' tokenizer differs, another is made of the
    `tokenizer.json`, or else of the `tokenizer.model`; it keeps the special tokens and the settings of the base.

    Args:
        name: a folder or hub id.
        revision: of the hub's repository: a branch, tag or commit.
        texts: to be compared beside `probe_texts.PROBE_TEXTS`; a sample of what will be tokenized.

    Raises:
        BadInput: it cannot be loaded or is not fast; it has no end token, or that is no control token of the model;
            texts do not come back from their ids (other Unicode forms and fewer spaces are let through and told); no
            tokenizer can be made that does what the base's own file does; or that file is damaged or no BPE model.
    """
    name, texts = str(name), [text for text in (*PROBE_TEXTS, *texts) if text]
    model_file = _file(name, "tokenizer.model", revision)
    model = read_model(model_file) if model_file and not _is_tiktoken(model_file) else None
    loaded, failure = _loaded(name, revision, quiet=model is not None)
    if loaded is None and model is None:
        raise failure
    if loaded is not None and not getattr(loaded, "is_fast", False):
        raise BadInput(f"{name} has no fast tokenizer; take a base with a tokenizer.json or a SentencePiece BPE model")
    base = _Base(
        name,
        _file(name, "tokenizer.json", revision),
        loaded,
        *(_settings(loaded) if loaded is not None else _configured(name, revision, model)),
    )
    tokenizer, proof = _like_json(base, texts) if model is None else _like_sentencepiece(base, model, texts)
    _check_end_token(name, tokenizer, _file(name, "config.json", revision))
    loss = _check_return(name, tokenizer, texts)
    tokenizer.chat_template = koala_template()
    return tokenizer, f"the tokenizer of {name} {proof}; {loss}"


@dataclass(frozen=True)
class _Base:
    """What there is of a base's tokenizer.

    Attributes:
        name: its folder or hub id.
        json_file: its `tokenizer.json`.
        loaded: what transformers makes of it, unless it fails.
        settings: arguments for a tokenizer of transformers that is made of one of its files.
        added: id → `tokenizers.AddedToken`.
    """

    name: str
    json_file: Path | None
    loaded: Any | None
    settings: dict[str, Any]
    added: dict[int, Any]


# --- What is compared -------------------------------------------------------------------------------------------------


def _like_sentencepiece(base: _Base, model: SentencePieceModel, texts: list[str]) -> tuple[Any, str]:
    """The tokenizer that does what SentencePiece does, and the proof."""
    texts = [*texts, *model.vocabulary_texts]
    expected = model.encode(texts)
    reason, shown = "as transformers cannot load it", ""
    if base.loaded is not None:
        ids = _ids(base.loaded, texts)
        differing = _differing(ids, expected)
        if not differing:
            return base.loaded, f"equals its tokenizer.model (SentencePiece) on {len(texts)} texts"
        _check_vocabulary(base.name, base.loaded, model)
        reason, shown = _reason(texts, differing), _both(base.loaded, model, texts, ids, expected, differing[0])
    if base.json_file is not None:
        candidate = _wrapped(_backend(base.json_file), base)
        if not _differing(_ids(candidate, texts), expected):
            return candidate, f"is made of its tokenizer.json, {reason}; it equals SentencePiece on all {len(texts)}"
    try:
        backend = bpe_tokenizer(model)
    except ValueError as error:
        sentence = f"{base.name}: its tokenizer.model cannot be used, because {error}; take another base"
        raise BadInput(f"{sentence} ({reason}; {shown})" if shown else sentence) from error
    if base.loaded is not None:
        backend.post_processor = base.loaded.backend_tokenizer.post_processor
    rebuilt = _wrapped(backend, base)
    ids = _ids(rebuilt, texts)
    if differing := _differing(ids, expected):
        shown = _both(rebuilt, model, texts, ids, expected, differing[0])
        raise BadInput(f"{base.name}: no tokenizer could be built that equals its tokenizer.model: {shown}")
    return rebuilt, f"is rebuilt from its tokenizer.model, {reason}; it equals SentencePiece on all {len(texts)}"


def _like_json(base: _Base, texts: list[str]) -> tuple[Any, str]:
    """The tokenizer that does what the `tokenizer.json` does, and the proof."""
    compared = "has no tokenizer.model to compare with"
    if base.json_file is None:
        return base.loaded, compared
    backend = _backend(base.json_file)
    backend.encode_special_tokens = True
    expected = [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]
    if differing := _differing(_ids(base.loaded, texts), expected):
        return _wrapped(backend, base), f"{compared}; it is made of its tokenizer.json, {_reason(texts, differing)}"
    return base.loaded, f"{compared}; it equals its tokenizer.json on {len(texts)} texts"


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The ids of texts in which nothing is a control token."""
    encoded = tokenizer(
        texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
    )
    return encoded["input_ids"]


def _differing(ids: Sequence[list[int]], expected: Sequence[list[int]]) -> list[int]:
    """The numbers of the texts whose ids differ."""
    return [number for number, pair in enumerate(zip(ids, expected, strict=True)) if pair[0] != pair[1]]


def _reason(texts: list[str], differing: list[int]) -> str:
    return (
        f"as transformers makes one that differs on {len(differing)} of {len(texts)} texts "
        f"(first: {_short(texts[differing[0]])})"
    )


def _both(
    tokenizer: Any,
    model: SentencePieceModel,
    texts: list[str],
    ids: list[list[int]],
    expected: list[list[int]],
    number: int,
) -> str:
    """The pieces of a text on both sides, from shortly before they differ."""
    found, wanted = ids[number], expected[number]
    same = next((place for place, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), 0)
    shown = slice(max(0, same - 3), max(0, same - 3) + _SHOWN_PIECES)
    theirs = [model.pieces[token_id].text for token_id in wanted[shown]]
    return (
        f"{_short(texts[number])} becomes {tokenizer.convert_ids_to_tokens(found[shown])}, and {theirs} in "
        "SentencePiece"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


# --- What is refused --------------------------------------------------------------------------------------------------


def _check_vocabulary(name: str, loaded: Any, model: SentencePieceModel) -> None:
    """Refuse to choose between two files of which one must be an error."""
    names = loaded.get_vocab()
    for number, piece in enumerate(model.pieces):
        if names.get(piece.text) != number:
            raise BadInput(
                f"{name}: the token {number} is {piece.text!r} in tokenizer.model and "
                f"{loaded.convert_ids_to_tokens(number)!r} in what transformers loads; remove the file that the model "
                "was not trained with"
            )


def _check_end_token(name: str, tokenizer: Any, config_file: Path | None) -> None:
    """Hold the end token to be one control token, for which the model has a row."""
    end = tokenizer.eos_token
    if not end:
        raise BadInput(f"{name} has no end token, so a model could not stop; set eos_token in tokenizer_config.json")
    if end == tokenizer.unk_token or end not in control_tokens(tokenizer):
        raise BadInput(f"{name}: the end token {end!r} is no control token; correct eos_token in tokenizer_config.json")
    # A token that is in no vocabulary is silently added by transformers.
    rows = _json(config_file).get("vocab_size")
    if isinstance(rows, int) and tokenizer.eos_token_id >= rows:
        raise BadInput(
            f"{name}: the end token {end!r} has the id {tokenizer.eos_token_id}, but the model knows {rows} tokens; "
            "correct eos_token in tokenizer_config.json"
        )


def _check_return(name: str, tokenizer: Any, texts: list[str]) -> str:
    """What is to be said of the texts that come back from their ids.

    SentencePiece's sign for a space comes back as a space from any tokenizer that is its kind, so that is not counted.
    """
    changed = []
    for text, ids in zip(texts, _ids(tokenizer, texts), strict=True):
        back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text.replace(SPACE_SIGN, " ") == back.replace(SPACE_SIGN, " "):
            continue
        if _plain(text) != _plain(back):
            raise BadInput(
                f"{name}: its tokenizer loses text: {_short(text)} comes back as {_short(back)} from its ids; take "
                "another base"
            )
        changed.append((text, back))
    if not changed:
        return "every text comes back from its ids"
    text, back = changed[0]
    return (
        f"but {len(changed)} of {len(texts)} texts come back from their ids in other Unicode forms or with fewer "
        f"spaces (first: {_short(text)} as {_short(back)}), so a model cannot write such texts"
    )


def _plain(text: str) -> str:
    """What is left of a text if nothing is thought of its Unicode forms and of the number of spaces in a row."""
    return re.sub(" +", " ", unicodedata.normalize("NFKC", text.replace(SPACE_SIGN, " "))).strip(" ")


# --- What is read and made --------------------------------------------------------------------------------------------


def _file(name: str, file: str, revision: str | None) -> Path | None:
    """A file of a folder, or of a repository of the hub (where it cannot be reached: what is in the cache)."""
    if Path(name).is_dir():
        return found if (found := Path(name) / file).is_file() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(
            name,
            file,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot load a tokenizer from {name}: {one_line(error)}") from error
    return Path(found) if found else None


def _is_tiktoken(file: Path) -> bool:
    """Whether it is a list of ranks under SentencePiece's name, as Llama 3 has it."""
    with file.open("rb") as opened:
        return bool(_TIKTOKEN_LINE.fullmatch(opened.readline(1000)))


def _loaded(name: str, revision: str | None, *, quiet: bool) -> tuple[Any | None, BadInput | None]:
    """transformers' tokenizer, or why there is none; `quiet`: without its warnings."""
    from transformers import AutoTokenizer

    try:
        with _silence(quiet):
            return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False), None
    except Exception as error:  # the libraries below raise whatever they like
        failure = BadInput(f"cannot load a tokenizer from {name}: {one_line(error)}")
        failure.__cause__ = error
        return None, failure


@contextmanager
def _silence(quiet: bool):
    from transformers.utils import logging

    before = logging.get_verbosity()
    try:
        if quiet:
            logging.set_verbosity(logging.CRITICAL)
        yield
    finally:
        logging.set_verbosity(before)


def _backend(json_file: Path):
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(json_file))
    except Exception as error:  # the library raises no other
        raise BadInput(f"{json_file} cannot be read: {one_line(error)}; fetch it again") from error


def _settings(tokenizer: Any) -> tuple[dict[str, Any], dict[int, Any]]:
    """`settings` and `added` of `_Base` from what transformers makes of it."""
    named = ((name, getattr(tokenizer, name, None)) for name in (*_ROLES, *_OTHER_SETTINGS))
    return {name: value for name, value in named if value is not None}, tokenizer.added_tokens_decoder


def _configured(name: str, revision: str | None, model: SentencePieceModel) -> tuple[dict[str, Any], dict[int, Any]]:
    """The same from the files of a base that transformers cannot load.

    Raises:
        BadInput: one of them is not what it should be.
    """
    from tokenizers import AddedToken

    config, added = (_json(_file(name, file, revision)) for file in ("tokenizer_config.json", "added_tokens.json"))
    try:
        tokens = {role: _content(config[role]) for role in _ROLES if config.get(role)}
        described = {int(number): dict(token) for number, token in config.get("added_tokens_decoder", {}).items()}
        for content, number in added.items():
            described.setdefault(number, {"content": content, "special": content in tokens.values()})
        others = {setting: config[setting] for setting in _OTHER_SETTINGS if config.get(setting) is not None}
        # Llama's tokenizers put the first token before every text, unless told otherwise.
        settings = {**model.named_tokens(), **tokens, **others, "add_bos_token": config.get("add_bos_token", True)}
        return settings, {
            number: AddedToken(token["content"], normalized=False, special=token.get("special", False))
            for number, token in described.items()
        }
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise BadInput(
            f"{name}: its tokenizer_config.json or added_tokens.json is not what transformers writes "
            f"({type(error).__name__}: {one_line(error)}); fetch it again"
        ) from error


def _content(token: str | Mapping) -> str:
    return token if isinstance(token, str) else token["content"]


def _json(file: Path | None) -> dict:
    if file is None:
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read as JSON: {one_line(error)}; fetch it again") from error


def _wrapped(backend, base: _Base):
    """A tokenizer of transformers with a backend.

    Its class is loaded again as it was saved, which the class of the base is not.

    Raises:
        BadInput: the base has added tokens under ids that they would not have here.
    """
    from transformers import PreTrainedTokenizerFast

    for number, token in sorted(base.added.items()):
        known = backend.get_added_tokens_decoder().get(number)
        if known is None or (token.special and not known.special):
            (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(token.content) != number:
            raise BadInput(
                f"{base.name}: its added token {token.content!r} should have the id {number}, but that would be "
                f"{backend.token_to_id(token.content)}; correct added_tokens_decoder in tokenizer_config.json"
            )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, name_or_path=base.name, clean_up_tokenization_spaces=False, **base.settings
    )
