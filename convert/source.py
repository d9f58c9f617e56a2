"""What is converted: a folder, a hub id, or an adapter with its base."""

from dataclasses import dataclass
from pathlib import Path

from datasets_cfg.errors import BadInput

from .adapter import Adapter, base_name, is_adapter, open_adapter
from .adapter_merge import merged
from .checkpoint import Checkpoint, open_checkpoint
from .hub import local_folder


@dataclass(frozen=True)
class Source:
    """An opened model.

    Attributes:
        name: what its files are called unless the user says otherwise.
        title: how others are told of it: the hub id, or of a folder its name.
        folder: what the user named, with the card, koala.json and, for an adapter too, usually the tokenizer.
        checkpoint: the weights, those of an adapter merged into its base as they are read.
        tokenizer: the checkpoint whose folder holds the tokenizer.
        base: of an adapter: the checkpoint without it.
        adapter: of an adapter: what is to be merged.
    """

    name: str
    title: str
    folder: Path
    checkpoint: Checkpoint
    tokenizer: Checkpoint
    base: Checkpoint | None = None
    adapter: Adapter | None = None


def open_source(model: str, *, base: str | None, revision: str | None, quiet: bool) -> Source:
    """Open the model; only headers are read, but one that is named by a hub id is fetched.

    Args:
        model: a folder or a hub id.
        base: folder or hub id of an adapter's base; None takes the one that the adapter names.
        revision: of a hub id: a branch, tag or commit.
        quiet: whether to show no progress of a download.

    Raises:
        BadInput: it cannot be found, opened or merged.
    """
    folder = local_folder(model, revision=revision, quiet=quiet)
    title = folder.resolve().name if Path(model).exists() else model
    name = title.rpartition("/")[2]
    if not is_adapter(folder):
        if base is not None:
            raise BadInput(f"--base {base}: {folder} is a whole model, not an adapter; leave --base out")
        checkpoint = open_checkpoint(folder)
        return Source(name, title, folder, checkpoint, checkpoint)
    adapter = open_adapter(folder)
    revision = None
    if base is None:
        base = base_name(adapter)
        revision = None if Path(base).is_dir() else adapter.config.get("revision")
    under = open_checkpoint(local_folder(base, revision=revision, quiet=quiet))
    whole = merged(under, adapter)
    # The adapter's own tokenizer has the chat template that it was trained on.
    owner = folder if (folder / "tokenizer.json").is_file() else under.folder
    return Source(name, title, folder, whole, Checkpoint(owner, whole.config, {}), under, adapter)


def check_apart(out: Path, source: Source) -> None:
    """Refuse to write a card and a report over those of what is converted.

    Raises:
        BadInput: `out` is a folder of the source.
    """
    folders = [source.folder, source.checkpoint.folder, source.tokenizer.folder]
    if out.resolve() in [folder.resolve() for folder in folders]:
        raise BadInput(f"--out {out} is the folder of the model itself, whose README.md would be lost; choose another")
