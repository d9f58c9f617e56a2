"""`metrics.jsonl`: what a run logged, one JSON object a line, as other modules read it."""

import json
from collections.abc import Iterator
from pathlib import Path

SOURCE_LOSS = "eval_loss/"
"""Before a source's name: the key of its loss in an evaluation's record."""


def read_records(file: Path) -> Iterator[dict]:
    """The records of a run; a line that is not whole, as a killed process leaves it, is passed over."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                continue
