"""How much a mixture holds for a base, found out without reading its text."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Amount:
    """What there is to train on, in one epoch.

    Attributes:
        conversations, tokens: of the training split.
        trained: tokens with loss; None where it is not known.
        squared: the sum of the conversations' squared lengths.
        rows: full rows of `max_length`.
        exact: counted, not estimated.
        source: where that was looked up, in words.
    """

    conversations: int
    tokens: int
    trained: int | None
    squared: int
    rows: int
    exact: bool
    source: str


# Characters of the messages per token of a whole conversation, format included: measured on the English rows of HH, HC3
# and Alpaca, with the vocabularies of LLaMA (32,000) and of Llama 3 and Qwen2 (128,000 and 152,000).
_CHARACTERS_PER_TOKEN = {False: 3.7, True: 4.3}
_LARGE_VOCABULARY = 64_000

# The mean of the squared lengths over the square of the mean, measured on a mixture of all of Koala's sources.
_SQUARED = 3.0


def amount_of(mixture: Path, base: str, length: int, vocab: int, *, seed: int = 42) -> Amount:
    """What a mixture holds for a base: counted where it was tokenized for it, else estimated from its manifest.

    Raises:
        BadInput: the folder is no mixture.
    """
    from datasets_cfg.tokenization import load_manifest

    manifest = load_manifest(mixture)
    for record, folder in _tokenized(mixture):
        same = (
            record.get("tokenizer") == Path(base).name
            and record.get("max_length") == length
            and record.get("ingredients", {}).get("mixture") == manifest.get("content_sha256")
        )
        if same:
            return _counted(record["splits"]["train"], folder, length, seed)
    train = manifest["splits"]["train"]
    if manifest.get("lengths_in") == "tokens":
        tokens = sum(source.get("lengths", {}).get("total", 0) for source in manifest["sources"].values())
        source = f"counted with the tokenizer {manifest['tokenizer']} when it was built"
    else:
        each = _CHARACTERS_PER_TOKEN[vocab >= _LARGE_VOCABULARY]
        tokens = round(train["characters"] / each)
        source = f"{train['characters']:,} characters, {each} a token"
    conversations = train["conversations"]
    squared = round(tokens * min(length, _SQUARED * tokens / max(1, conversations)))
    source += "; to count: python -m datasets_cfg tokenize"
    return Amount(conversations, tokens, None, squared, math.ceil(tokens / length), False, source)


def _tokenized(mixture: Path) -> Iterator[tuple[dict, Path]]:
    """What was tokenized of a mixture: the records and their folders."""
    from datasets_cfg.tokenization import FOLDER

    for file in sorted((mixture / FOLDER).glob("*/tokenized.json")):
        try:
            yield json.loads(file.read_text(encoding="utf-8")), file.parent
        except (OSError, ValueError):
            continue  # being written, or broken: training makes it anew


def _counted(split: dict, folder: Path, length: int, seed: int) -> Amount:
    import numpy as np
    import pyarrow.parquet as pq

    from .packing import pack

    lengths = np.concatenate(
        [
            np.diff(chunk.offsets.to_numpy())
            for name in split["files"]
            for chunk in pq.read_table(folder / name, columns=["input_ids"])["input_ids"].chunks
        ]
    ).astype(np.int64)
    return Amount(
        conversations=split["conversations"],
        tokens=split["tokens"],
        trained=split["trained_tokens"],
        squared=int(np.square(lengths).sum()),
        rows=len(pack(lengths, length, seed)),
        exact=True,
        source=f"counted in {folder}",
    )
