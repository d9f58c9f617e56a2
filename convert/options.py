"""What the user asks a conversion for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """See `python -m convert --help`.

    Attributes:
        model: a folder or hub id of a model or of an adapter.
        out: the folder for the files.
        types: of the files, `auto` among them; none stands for Q8_0, of an adapter file for F32.
        ram: bytes that `auto` may use.
        base: of an adapter.
        revision: of a hub id.
        name: of the files; None takes the model's.
        mixture: whose held-out conversations the files are measured on.
        imatrix: where the importance matrix comes from.
        imatrix_tokens: that it is computed on at most.
        split_max_size: bytes of a file at most.
        overwrite, verify, threads, quiet: as they say.
    """

    model: str
    out: Path
    types: tuple[str, ...] = ()
    ram: int | None = None
    base: str | None = None
    revision: str | None = None
    name: str | None = None
    mixture: Path | None = None
    imatrix: Path | None = None
    imatrix_tokens: int = 50_000
    split_max_size: int | None = None
    overwrite: bool = False
    verify: bool = True
    threads: int = 1
    quiet: bool = False
