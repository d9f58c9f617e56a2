"""The mixture as training reads it: conversations, and their token ids and labels."""

from pathlib import Path

from datasets_cfg.tokenization import Tokenized, split_files


def load_split(folder: Path, split: str):
    """The conversations of a split ("train", "eval") as a `datasets.Dataset`, or None where the split is empty.

    Raises:
        BadInput: the folder is no mixture, or a file that its manifest names is missing.
    """
    return _load(split_files(folder, split))


def load_ids(ids: Tokenized, split: str):
    """`input_ids`, `labels` and `source` of a split as a `datasets.Dataset`, mapped from disk; None if it is empty."""
    return _load(ids.files(split), columns=["input_ids", "labels", "source"])


def sample_texts(folder: Path, conversations: int = 50) -> list[str]:
    """The messages of the first conversations of the train split, to try a tokenizer on.

    Raises:
        BadInput: as `load_split`.
    """
    import pyarrow.parquet as pq

    texts: list[str] = []
    for file in split_files(folder, "train")[:1]:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(conversations, columns=["messages"]):
                return [message["content"] for row in batch.column(0).to_pylist() for message in row]
    return texts


def _load(files: list[Path], **options):
    from datasets import load_dataset

    if not files:
        return None
    return load_dataset("parquet", data_files=[str(file) for file in files], split="train", **options)
