"""`python -m datasets_cfg tokenize`: the ids and labels of a mixture, made once and kept beside it."""

import argparse
import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from .base_tokenizer import load_tokenizer
from .digest import file_digest
from .errors import BadInput, one_line
from .files import staged_folder
from .prompt import IGNORED, encode
from .versions import versions

FOLDER = "tokenized"
"""Where in a mixture's folder its ids are kept."""

COUNTS = ("conversations", "tokens", "trained_tokens", "cut", "left_out")
"""What is counted for each source: conversations that are kept, their tokens, those of them that carry loss, how many
conversations were cut, and how many were left out."""

_FORMAT_VERSION = 1
_RECORD = "tokenized.json"
_CONVERSATIONS_PER_BATCH = 2_000


@dataclass(frozen=True)
class Tokenized:
    """The ids of a mixture.

    Attributes:
        folder: holds `train-*.parquet` and `eval-*.parquet` with the columns `input_ids`, `labels`, `source`, `id`.
        record: the content of its `tokenized.json`.
        made: whether they were made now; otherwise they were there.
    """

    folder: Path
    record: dict
    made: bool

    def files(self, split: str) -> list[Path]:
        """The files of a split ("train", "eval")."""
        return [self.folder / name for name in self.record["splits"][split]["files"]]


def add_command(commands) -> None:
    """Add the subcommand to the subparsers of `python -m datasets_cfg`."""
    command = commands.add_parser(
        "tokenize", help="make the token ids and labels of a mixture, once", description=_tokenize.__doc__
    )
    command.add_argument("mixture", type=Path, metavar="DIR", help="a folder that `build` wrote")
    command.add_argument("--tokenizer", required=True, metavar="T", help="a folder or hub id: the base model's")
    command.add_argument(
        "--max-length",
        type=int,
        default=2048,
        metavar="N",
        help="tokens of the longest conversation (default %(default)s)",
    )
    command.add_argument("--num-proc", type=int, default=1, metavar="N", help="processes (default %(default)s)")
    command.add_argument("--out", type=Path, metavar="DIR2", help="where the ids go (default: into DIR, for train)")
    command.add_argument("--overwrite", action="store_true", help="make them again")
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.set_defaults(run=_tokenize)


def _tokenize(options: argparse.Namespace) -> None:
    """Write input_ids and labels of every conversation of a mixture; training uses them if tokenizer and length are
    the same."""
    load_manifest(options.mixture)
    done = tokenized(
        options.mixture,
        load_tokenizer(options.tokenizer),
        options.max_length,
        processes=options.num_proc,
        out=options.out,
        overwrite=options.overwrite,
        quiet=options.quiet,
    )
    if options.quiet:
        return
    for split, entry in done.record["splits"].items():
        for name, counts in entry["sources"].items():
            print(
                f"{split:>5} {name:>13}  {counts['conversations']:>7,} conversations  {counts['tokens']:>11,} tokens  "
                f"{counts['trained_tokens']:>11,} trained  {counts['cut']:>5,} cut  {counts['left_out']:>5,} left out"
            )
    print(f"{'wrote' if done.made else 'already there, nothing to do:'} {done.folder}")


def load_manifest(folder: Path) -> dict:
    """The `manifest.json` of a mixture.

    Raises:
        BadInput: the folder is not one that `datasets_cfg build` wrote.
    """
    file = folder / "manifest.json"
    if not file.is_file():
        raise BadInput(f"{folder} is not a mixture (it has no manifest.json); build one: python -m datasets_cfg build")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file} is not valid JSON ({error}); build the mixture again") from error
    if not _describes_a_mixture(manifest):
        raise BadInput(f"{file} does not describe a mixture; build the mixture again")
    return manifest


def _describes_a_mixture(manifest: object) -> bool:
    """Whether what every reader of a manifest relies on is there."""
    try:
        named = isinstance(manifest["mixture"], str) and isinstance(manifest["content_sha256"], str)
        splits = [manifest["splits"][name] for name in ("train", "eval")]
        counted = all(isinstance(split["conversations"], int) and isinstance(split["files"], dict) for split in splits)
        return named and counted and all(isinstance(source, dict) for source in manifest["sources"].values())
    except (TypeError, KeyError, AttributeError):
        return False


def split_files(folder: Path, split: str) -> list[Path]:
    """The Parquet files of a mixture's split ("train", "eval").

    Raises:
        BadInput: the folder is no mixture, or a file that its manifest names is missing.
    """
    files = [folder / name for name in load_manifest(folder)["splits"][split]["files"]]
    for file in files:
        if not file.is_file():
            raise BadInput(f"{file} is missing, although the mixture's manifest names it; build the mixture again")
    return files


def tokenized(
    mixture: Path,
    tokenizer,
    max_length: int,
    *,
    processes: int = 1,
    out: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Tokenized:
    """The ids of a mixture for a tokenizer with a chat template and a length: those that are there, or new ones.

    Args:
        mixture: a folder that `datasets_cfg build` wrote.
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        max_length: of a conversation, in tokens. A longer one is cut after the last answer that fits with its end
            token; one without such an answer is left out.
        processes: how many work; the files do not depend on it.
        out: a folder for new ids; without it they are kept in the mixture and found again.
        overwrite: make them even if they are there.
        quiet: show no progress.

    Raises:
        BadInput: the folder is no mixture or was changed, cannot be written to, or nothing fits into `max_length`.
    """
    from .batch_encoder import Format

    if max_length < 1 or processes < 1:
        raise BadInput(f"{'max_length' if max_length < 1 else 'the number of processes'} must be at least 1")
    manifest = load_manifest(mixture)
    format = Format.of(tokenizer)
    ingredients = {
        "format_version": _FORMAT_VERSION,
        "mixture": manifest["content_sha256"],
        "max_length": max_length,
        **format.digests(),
    }
    key = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
    record = {
        "key": key,
        "ingredients": ingredients,
        "mixture": manifest["mixture"],
        "tokenizer": Path(tokenizer.name_or_path).name,
        "max_length": max_length,
    }

    def make(folder: Path) -> Tokenized:
        with staged_folder(folder, overwrite=overwrite) as staged:
            record["splits"] = _write(mixture, staged, tokenizer, format, max_length, processes, quiet)
            record["versions"] = versions("tokenizers", "pyarrow")
            text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
            (staged / _RECORD).write_text(text, encoding="utf-8")
        return Tokenized(folder, record, made=True)

    if out is not None:
        return make(out)
    folder = mixture / FOLDER / key[:16]
    if found := None if overwrite else _find(folder, key):
        return found

    from filelock import FileLock

    try:
        folder.parent.mkdir(exist_ok=True)
        # Two runs that begin at the same time do the work once.
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            return (None if overwrite else _find(folder, key)) or make(folder)
    except OSError as error:
        raise BadInput(f"the ids cannot be kept in {folder.parent}: {one_line(error)}") from error


def _find(folder: Path, key: str) -> Tokenized | None:
    """The ids in `folder` if they have this key and are all there."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = Tokenized(folder, record, made=False)
    whole = record["key"] == key and all(file.is_file() for split in record["splits"] for file in found.files(split))
    return found if whole else None


def kept_tokens(labels: Sequence[int], end_token: int, max_length: int) -> int:
    """How many tokens of a conversation are kept: all, or up to the last trained end token within `max_length`.

    0 where no answer fits. `labels` has the shape (tokens,), as `prompt.encode` makes it.
    """
    if len(labels) <= max_length:
        return len(labels)
    return next((end for end in range(max_length, 0, -1) if labels[end - 1] == end_token), 0)


# --- The work ---------------------------------------------------------------------------------------------------------


def _write(
    mixture: Path, staged: Path, tokenizer, format, max_length: int, processes: int, quiet: bool
) -> dict[str, dict]:
    """Write the ids of all splits into `staged` and describe them."""
    import pyarrow.parquet as pq
    from tqdm import tqdm

    # Processes work side by side here, not the threads of the tokenizer's library.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    manifest = load_manifest(mixture)
    settings = (format, tokenizer.eos_token_id, max_length)
    splits = {}
    with _Pool(processes, settings, tokenizer.backend_tokenizer) as pool:
        for split, described in manifest["splits"].items():
            # disable=None: no bar where there is no terminal.
            progress = tqdm(
                total=described["conversations"], desc=split, unit=" rows", disable=quiet or None, leave=False
            )
            sources: dict[str, dict[str, int]] = {}
            files = {}
            with progress:
                for file in split_files(mixture, split):
                    if file_digest(file) != described["files"][file.name]:
                        raise BadInput(f"{file} is not the file that the manifest describes; build the mixture again")
                    with pq.ParquetWriter(staged / file.name, _schema(), compression="zstd") as writer:
                        for batch, (ids, counts) in pool.map(_batches(file)):
                            _check(tokenizer, batch, ids)
                            writer.write_batch(ids)
                            _add(sources, counts)
                            progress.update(len(batch))
                    files[file.name] = file_digest(staged / file.name)
            totals = {name: sum(counts[name] for counts in sources.values()) for name in COUNTS}
            if split == "train" and not totals["conversations"]:
                raise BadInput(f"no train conversation of {mixture} fits into {max_length} tokens; raise max_length")
            splits[split] = {"files": files, **totals, "sources": dict(sorted(sources.items()))}
    return splits


def _batches(file: Path) -> Iterator:
    """The conversations of a file as Arrow record batches; where they end does not depend on who works on them."""
    import pyarrow.parquet as pq

    columns = ["id", "source", "messages", "chat_template_kwargs"]
    with closing(pq.ParquetFile(file)) as opened:
        yield from opened.iter_batches(_CONVERSATIONS_PER_BATCH, columns=columns)


def _schema():
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    return pa.schema([("input_ids", ids), ("labels", ids), ("source", pa.string()), ("id", pa.string())])


def _add(sources: dict[str, dict[str, int]], counts: dict[str, dict[str, int]]) -> None:
    """Add the counts of a batch to those of the sources."""
    for source, found in counts.items():
        whole = sources.setdefault(source, dict.fromkeys(COUNTS, 0))
        for name, count in found.items():
            whole[name] += count


def _check(tokenizer, batch, ids) -> None:
    """Hold the first conversation of a batch against `encode`, which is what ids and labels have to be."""
    row = batch.slice(0, 1).to_pylist()[0]
    if not len(ids) or ids["id"][0].as_py() != row["id"]:
        return  # it was left out
    expected = encode(tokenizer, row["messages"], **row["chat_template_kwargs"])
    for name in ("input_ids", "labels"):
        found = ids[name][0].as_py()
        if found != getattr(expected, name)[: len(found)]:
            raise RuntimeError(f"{row['id']}: the {name} of the batch encoder are not those of datasets_cfg.prompt")


class _Worker:
    """Tokenizes record batches."""

    def __init__(self, format, end_token: int, max_length: int, backend=None):
        from .batch_encoder import BatchEncoder

        self._encoder, self._end_token, self._max_length = BatchEncoder(format, backend), end_token, max_length

    def __call__(self, batch):
        """A record batch in `_schema`, and the counts of each source."""
        import numpy as np
        import pyarrow as pa

        conversations = batch.to_pylist()
        ids, labels, ends = self._encoder.encode(conversations)
        counts: dict[str, dict[str, int]] = {}
        spans, rows = [], []
        for row, (begin, end) in enumerate(pairwise([0, *ends.tolist()])):
            kept = kept_tokens(labels[begin:end], self._end_token, self._max_length)
            found = counts.setdefault(conversations[row]["source"], dict.fromkeys(COUNTS, 0))
            if not kept:
                found["left_out"] += 1
                continue
            spans.append(slice(begin, begin + kept))
            rows.append(row)
            found["conversations"] += 1
            found["tokens"] += kept
            found["trained_tokens"] += int(np.count_nonzero(labels[spans[-1]] != IGNORED))
            found["cut"] += kept < end - begin

        borders = np.cumsum([0, *(span.stop - span.start for span in spans)], dtype=np.int32)
        lists = [
            pa.ListArray.from_arrays(
                borders, np.concatenate([np.empty(0, np.int32), *(values[span] for span in spans)])
            )
            for values in (ids, labels)
        ]
        kept_rows = batch.take(pa.array(rows, pa.int64()))
        columns = [*lists, kept_rows["source"], kept_rows["id"]]
        return pa.RecordBatch.from_arrays(columns, schema=_schema()), counts


class _Pool:
    """This process and others that tokenize with it; results come in the order of the batches."""

    def __init__(self, processes: int, settings: tuple, backend):
        """Args: how many, this one included; of `_Worker`; and the tokenizer that this process has."""
        self._others, self._settings, self._backend = processes - 1, settings, backend

    def __enter__(self) -> "_Pool":
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        self._executor = None
        if self._others:
            # A fork would copy the locks of threads that run here (Arrow's, torch's) in whatever state they are.
            self._executor = ProcessPoolExecutor(
                self._others, mp_context=get_context("spawn"), initializer=_start, initargs=self._settings
            )
        self._worker = _Worker(*self._settings, self._backend)
        return self

    def __exit__(self, *_) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def map(self, batches: Iterable) -> Iterator[tuple]:
        """Each batch and what is made of it; few batches are held at a time."""
        waiting: deque[tuple[Any, Future]] = deque()
        for batch in batches:
            if sum(not future.done() for _, future in waiting) < 2 * self._others:
                future = self._executor.submit(_work, batch)
            else:  # the others have enough to do
                future = Future()
                future.set_result(self._worker(batch))
            waiting.append((batch, future))
            while waiting and (waiting[0][1].done() or len(waiting) > 8 * (self._others + 1)):
                first, future = waiting.popleft()
                yield first, future.result()
        for batch, future in waiting:
            yield batch, future.result()


_worker: _Worker | None = None
"""In a process of the pool."""


def _start(*settings) -> None:
    """Make ready a process of the pool. It ends with the process that started it, however that ends."""
    import signal
    from multiprocessing import parent_process
    from threading import Thread

    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the business of the process that started this one

    def follow() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()
    _worker = _Worker(*settings)


def _work(batch):
    return _worker(batch)
