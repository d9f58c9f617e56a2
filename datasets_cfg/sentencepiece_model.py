"""A SentencePiece model (`tokenizer.model`): what it says, and the fast tokenizer that says the same.

The file is a protocol buffer (sentencepiece_model.proto of google/sentencepiece). The package `sentencepiece` encodes
with it but does not tell the kind of the model, its normalizer or the kinds of its pieces, and its generated reader
needs one more package; the few fields that are needed are read here.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from .errors import BadInput, one_line
from .probe_texts import SPACE_SIGN

# Numbers of fields and of enumerations in sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL, _SPACE_AS_SUFFIX = 3, 24
_RULE, _CHARSMAP, _PREFIX, _JOINS_SPACES, _ESCAPES = 1, 2, 3, 4, 5
_MODELS = {1: "unigram", 2: "BPE", 3: "word", 4: "character"}
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)


@dataclass(frozen=True)
class Piece:
    """A token of the vocabulary. The neighbours whose union has the highest score are merged first."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """A BPE model.

    Attributes:
        processor: `sentencepiece.SentencePieceProcessor`.
        pieces: by id.
        rule: the name of the rule by which characters are replaced first.
        charsmap: that rule, compiled; empty for "identity".
        prefix: whether a space is put before a text.
        joins_spaces: whether runs of spaces become one space, and those at the borders none.
        usual_spaces: whether spaces are written as "▁", and the prefix stands before the text.
    """

    processor: Any
    pieces: tuple[Piece, ...]
    rule: str
    charsmap: bytes
    prefix: bool
    joins_spaces: bool
    usual_spaces: bool

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts, without control tokens."""
        return self.processor.encode(list(texts), out_type=int, add_bos=False, add_eos=False)

    def named_tokens(self) -> dict[str, str]:
        """Role (`bos_token`, `eos_token`, `unk_token`, `pad_token`) → token, of those that the model has."""
        ids = {role: getattr(self.processor, f"{role}_id")() for role in ("bos", "eos", "unk", "pad")}
        return {f"{role}_token": self.pieces[token_id].text for role, token_id in ids.items() if token_id >= 0}

    @cached_property
    def vocabulary_texts(self) -> list[str]:
        """Texts in which each ordinary piece occurs, a hundred in each, and that have what is merged out of turn.

        That is: user-defined symbols, and pieces of equal score, of which SentencePiece merges the leftmost first.
        """
        normal = [piece for piece in self.pieces if piece.kind == _NORMAL]
        groups = [normal[first : first + 100] for first in range(0, len(normal), 100)]
        by_score = sorted(normal, key=lambda piece: piece.score)
        for _, tied in groupby(by_score, key=lambda piece: piece.score):
            group = list(tied)[:100]
            if len(group) > 1:
                groups += [group[::-1], *([piece] * 5 for piece in group)]
        for symbol in [piece for piece in self.pieces if piece.kind == _USER_DEFINED][:100]:
            groups += [[symbol], [normal[0], symbol, normal[-1], symbol, symbol]]
        return ["".join(piece.text for piece in group).replace(SPACE_SIGN, " ") for group in groups]


def read_model(file: Path) -> SentencePieceModel:
    """Read a `tokenizer.model`.

    Raises:
        BadInput: it is not SentencePiece's, is damaged, or is no BPE model.
    """
    from sentencepiece import SentencePieceProcessor

    content = file.read_bytes()
    try:
        processor = SentencePieceProcessor(model_proto=content)
        # The defaults are those of the format.
        trainer = {_MODEL: 1, _SPACE_AS_SUFFIX: 0}
        normalizer = {_RULE: b"", _CHARSMAP: b"", _PREFIX: 1, _JOINS_SPACES: 1, _ESCAPES: 1}
        pieces = []
        for number, value in _fields(content):
            if number == _PIECES:
                piece = {_KIND: _NORMAL, _SCORE: b"\0\0\0\0", **dict(_fields(value))}
                pieces.append(Piece(piece[_TEXT].decode(), struct.unpack("<f", piece[_SCORE])[0], piece[_KIND]))
            elif number == _TRAINER:
                trainer.update(_fields(value))
            elif number == _NORMALIZER:
                normalizer.update(_fields(value))
    except (RuntimeError, ValueError, LookupError, TypeError, struct.error) as error:
        raise BadInput(f"{file} is no SentencePiece model, or damaged ({one_line(error)}); fetch it again") from error
    kind = _MODELS.get(trainer[_MODEL], "unknown")
    if kind != "BPE":
        raise BadInput(
            f"{file} is a SentencePiece model of the kind {kind}, and only BPE can be used; take another base"
        )
    return SentencePieceModel(
        processor,
        tuple(pieces),
        rule=normalizer[_RULE].decode(errors="replace"),
        charsmap=normalizer[_CHARSMAP],
        prefix=bool(normalizer[_PREFIX]),
        joins_spaces=bool(normalizer[_JOINS_SPACES]),
        usual_spaces=bool(normalizer[_ESCAPES]) and not trainer[_SPACE_AS_SUFFIX],
    )


def bpe_tokenizer(model: SentencePieceModel):
    """A tokenizer of the library `tokenizers` that does what the model does; it has no post-processor.

    Raises:
        ValueError: the library has no such tokenizer; the message says why, to be put after "because".
    """
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import BPE

    kinds = {piece.kind for piece in model.pieces}
    if _BYTE not in kinds:
        raise ValueError("it has no tokens for bytes, so characters that it does not know are lost")
    if _UNUSED in kinds:
        raise ValueError("it has pieces that are marked as unused")
    if not model.usual_spaces:
        raise ValueError("it writes spaces in an unusual way")
    # A symbol cuts the text before anything else is done to it, and then each part would get a prefix of its own.
    if _USER_DEFINED in kinds and (model.prefix or model.joins_spaces or model.charsmap):
        raise ValueError("it has user-defined symbols and changes the text around them")

    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    tokenizer = Tokenizer(BPE(vocabulary, _merges(model.pieces), byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = _normalizer(model)
    tokenizer.decoder = _decoder(model)
    tokenizer.add_special_tokens(
        [AddedToken(p.text, normalized=False) for p in model.pieces if p.kind in (_CONTROL, _UNKNOWN)]
    )
    tokenizer.add_tokens([AddedToken(p.text, normalized=True) for p in model.pieces if p.kind == _USER_DEFINED])
    return tokenizer


def _merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """The pairs that make a piece, by falling score.

    Of equal scores SentencePiece takes the leftmost in the text. LLaMA's runs of spaces are such pieces: from the left
    each takes in one space after the other. The same comes of taking the longest left side first.

    Raises:
        ValueError: a piece has a character that is no token, so no pairs of tokens make it.
    """
    mergeable = {piece.text: piece.score for piece in pieces if piece.kind == _NORMAL}
    merges = []
    for text, score in mergeable.items():
        if len(text) > 1 and not all(character in mergeable for character in text):
            raise ValueError(f"its piece {text!r} is made of characters that are no pieces")
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in mergeable and right in mergeable:
                merges.append((-score, -cut, left, right))
    merges.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in merges]


def _normalizer(model: SentencePieceModel):
    from tokenizers import Regex
    from tokenizers.normalizers import NFKC, Precompiled, Prepend, Replace, Sequence

    steps = []
    if model.charsmap:
        # The library's reader of compiled rules replaces no sequences of characters, such as decomposed Korean.
        steps.append(NFKC() if model.rule == "nfkc" else Precompiled(model.charsmap))
    if model.joins_spaces:
        steps += [Replace(Regex(r"\A +"), ""), Replace(Regex(" {2,}"), " ")]
    if model.prefix:
        steps.append(Prepend(SPACE_SIGN))
    steps.append(Replace(" ", SPACE_SIGN))
    if model.joins_spaces:
        # SentencePiece does this last, so it takes away signs that stood in the text too.
        steps.append(Replace(Regex(rf"{SPACE_SIGN}+\z"), ""))
    return Sequence(steps)


def _decoder(model: SentencePieceModel):
    from tokenizers.decoders import ByteFallback, Fuse, Replace, Sequence, Strip

    steps = [Replace(SPACE_SIGN, " "), ByteFallback(), Fuse()]
    return Sequence([*steps, Strip(" ", 1, 0)] if model.prefix else steps)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer's message as (number, value): an integer, or the bytes of anything else.

    The wire format: https://protobuf.dev/programming-guides/encoding/.

    Raises:
        IndexError, ValueError: the message is damaged.
    """
    place = 0

    def integer() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while place < len(message):
        number, wire = divmod(integer(), 8)
        if wire == 0:
            yield number, integer()
            continue
        sizes = {1: 8, 5: 4}
        size = integer() if wire == 2 else sizes.get(wire)
        if size is None or place + size > len(message):
            raise ValueError("a field has no end")
        yield number, message[place : place + size]
        place += size
