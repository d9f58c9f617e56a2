"""What a tokenizer does to a text before BPE, and llama.cpp's name for it.

The steps of a tokenizer.json are brought to one form, so that tokenizers that do the same are recognised whoever wrote
them: a byte-level one is the sequence of the regular expressions that cut the text, a SentencePiece-style one is
whether it puts a space before the text.
"""

from pathlib import Path

from datasets_cfg.errors import BadInput

SPACE = "\u2581"
"""What SentencePiece writes for a space."""

_SHORT = "'s|'t|'re|'ve|'m|'ll|'d"
_GPT2 = rf"{_SHORT}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"
_END = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_END_WITH_SLASH = _END.replace("]*", "/]*", 1)
_LOWER, _UPPER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}", r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+", rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*")

# The expressions that cut a text, one after the other → llama.cpp's name of them (its src/llama-vocab.cpp).
_BYTE_LEVEL = {
    (_GPT2,): "gpt-2",
    (_DIGIT, _GPT2): "smollm",
    (rf"(?i:{_SHORT})|{_LETTERS}|\p{{N}}{{1,3}}|{_END}",): "llama-bpe",
    (rf"(?i:{_SHORT})|{_LETTERS}|\p{{N}}|{_END}",): "qwen2",
    (rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_END_WITH_SLASH}",): "tekken",
    (rf"{_CASED[0]}(?i:{_SHORT})?|{_CASED[1]}(?i:{_SHORT})?|\p{{N}}{{1,3}}|{_END_WITH_SLASH}",): "gpt-4o",
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT): "deepseek-coder",
}
# The same expressions, but what is a token as a whole is still merged from its parts.
_MERGING = {"llama-bpe": "dbrx"}

# Ways to write the same expression. A possessive `++` or `?+` is a plain one where no letter that follows could have
# been taken by it.
_SPELLINGS = (
    ("\r", r"\r"),
    ("\n", r"\n"),
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", f"(?i:{_SHORT})"),
    ("'(?i:[sdmt]|ll|ve|re)", f"(?i:{_SHORT})"),
    ("'(?:[sdmt]|ll|ve|re)", _SHORT),
    (r"[^\r\n\p{L}\p{N}]?+\p{L}+", _LETTERS),
    (r"[^\s\p{L}\p{N}]++[\r\n]*", r"[^\s\p{L}\p{N}]+[\r\n]*"),
)

_ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREFIX = {"type": "Prepend", "prepend": SPACE}
_NFKC = {"type": "NFKC"}
# What SentencePiece calls removing extra white space: before the spaces are escaped, and after it.
_JOIN = [
    {"type": "Replace", "pattern": {"Regex": "\\A +"}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
]
_TRIM = {"type": "Replace", "pattern": {"Regex": f"{SPACE}+\\z"}, "content": ""}


def differing_part(one: dict, other: dict) -> str | None:
    """The part of two tokenizer.json that changes or cuts a text otherwise, as far as llama.cpp can tell; or None."""
    parts = ("normalizer", "pre_tokenizer")
    return next((part for part in parts if _canonical(one, part) != _canonical(other, part)), None)


def byte_level_name(structure: dict, where: Path) -> str:
    """llama.cpp's name of a byte-level pre-tokenizer.

    Raises:
        BadInput: it has none.
    """
    # NFC is let through: llama.cpp leaves it out, which changes ids only for text that is not in NFC.
    if _canonical(structure, "normalizer") != []:
        raise BadInput(f"{where}: llama.cpp does not know this normalizer: {structure['normalizer']}")
    name = _BYTE_LEVEL.get(_expressions(structure["pre_tokenizer"]))
    if name is None:
        raise BadInput(
            f"{where}: this pre-tokenizer cannot be converted: {structure['pre_tokenizer']}; known is byte-level BPE "
            f"that cuts a text like {', '.join(_BYTE_LEVEL.values())}"
        )
    return name if structure["model"].get("ignore_merges") else _MERGING.get(name, name)


def has_space_prefix(structure: dict, where: Path) -> bool:
    """Whether a SentencePiece-style tokenizer starts each text with a space of its own.

    Raises:
        BadInput: it does what llama.cpp cannot do.
    """
    pre_tokenizer, normalizer = structure["pre_tokenizer"], structure["normalizer"]
    if pre_tokenizer and pre_tokenizer.get("type") == "Metaspace":
        raise BadInput(
            f"{where}: a Metaspace pre-tokenizer (prepend_scheme {pre_tokenizer.get('prepend_scheme')!r}) where "
            "SentencePiece and llama.cpp have none. transformers 5 builds this from a folder with only a "
            "tokenizer.model, and its ids differ from the base model's for whitespace runs and after special tokens; "
            "train and convert with the publisher's tokenizer.json (Prepend and Replace normalizers)"
        )
    steps = _canonical(structure, "normalizer")
    if steps[:1] == [_NFKC]:
        del steps[0]
    if steps[:2] == _JOIN and steps[-1:] == [_TRIM]:
        steps = steps[2:-1]
    if _canonical(structure, "pre_tokenizer") == [] and steps in ([_PREFIX, _ESCAPE], [_ESCAPE]):
        return steps[0] == _PREFIX
    raise BadInput(
        f"{where}: llama.cpp does not know this SentencePiece-style tokenizer: normalizer {normalizer}, "
        f"pre-tokenizer {pre_tokenizer}"
    )


def text_rules(structure: dict) -> tuple[bool, bool]:
    """What a SentencePiece-style tokenizer does to a text first that llama.cpp leaves to others.

    Returns:
        Whether it brings the text into Unicode's form NFKC, and whether it joins runs of spaces into one and takes away
        those at the borders, as OpenLLaMA's first models do.
    """
    steps = _flat(structure["normalizer"])
    return _NFKC in steps, _JOIN[1] in steps


def _canonical(structure: dict, part: str) -> list:
    """The steps of a normalizer or a pre-tokenizer that do something which llama.cpp can or cannot do."""
    steps = _flat(structure.get(part))
    if part == "normalizer":
        return [step for step in steps if step["type"] != "NFC"]
    expressions = _expressions(structure.get(part))
    if expressions is not None:
        return list(expressions)
    # Where the normalizer has replaced all spaces, a cut at spaces does nothing.
    escaped = _ESCAPE in _flat(structure.get("normalizer"))
    return [step for step in steps if not (escaped and _cuts_at_spaces(step))]


def _flat(part: dict | None) -> list[dict]:
    """The steps of a normalizer or a pre-tokenizer."""
    if part is None:
        return []
    inner = part.get("normalizers", part.get("pretokenizers"))
    return [part] if inner is None else [step for each in inner for step in _flat(each)]


def _expressions(pre_tokenizer: dict | None) -> tuple[str, ...] | None:
    """The regular expressions of a byte-level pre-tokenizer in one form; None if it is not one."""
    expressions = []
    *cuts, last = _flat(pre_tokenizer) or [{"type": None}]
    for step in cuts:
        match step:
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
                expressions.append(_one_spelling(pattern))
            case {"type": "Digits", "individual_digits": True}:
                expressions.append(_DIGIT)
            case _:
                return None
    match last:
        case {"type": "ByteLevel", "use_regex": bool(uses), "add_prefix_space": False}:
            return (*expressions, _GPT2) if uses else tuple(expressions)
    return None


def _one_spelling(pattern: str) -> str:
    for other, ours in _SPELLINGS:
        pattern = pattern.replace(other, ours)
    return pattern


def _cuts_at_spaces(step: dict) -> bool:
    return step["type"] == "Split" and step["pattern"] == {"String": " "} and step["behavior"] != "Removed"
