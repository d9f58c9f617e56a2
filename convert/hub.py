"""A checkpoint by its name: a folder on this machine, or a model of the hub that is fetched into the hub's cache."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets_cfg.errors import BadInput, one_line

WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "README.md", "LICENSE*")
"""The files that a conversion reads; pickled weights are never among them."""

# Mistral's repositories hold the weights a second time under this name, others hold exports in subfolders.
_UNWANTED = ("consolidated*.safetensors", "*/*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def local_folder(name: str, *, revision: str | None = None, quiet: bool = False) -> Path:
    """The folder that `name` means.

    Args:
        name: a folder, or a hub id such as `Qwen/Qwen2.5-0.5B-Instruct`. What is there as a folder is never looked up.
        revision: branch, tag or commit on the hub.
        quiet: show no progress.

    Returns:
        The folder itself, or the snapshot in the hub's cache. An interrupted download goes on where it stopped.

    Raises:
        BadInput: it is neither, or it cannot be fetched; the message says why and what to do.
    """
    folder = Path(name)
    try:
        there = folder.exists()
    except OSError as error:  # a name that is too long, or in a folder that may not be read
        raise BadInput(
            f"{name[:100]} cannot be opened ({error.strerror}); give the folder of a checkpoint, or a hub id of the "
            "form owner/name"
        ) from None
    if there and folder.is_dir():
        if revision is not None:
            raise BadInput(f"{name} is a folder on this machine, so it has no revision {revision}; leave it out")
        return folder
    if there or not _HUB_ID.fullmatch(name):
        hint = "is a file" if there else "is not there"
        raise BadInput(f"{name} {hint}; give the folder of a checkpoint, or a hub id of the form owner/name")
    snapshot = _fetch(name, revision, quiet=quiet)
    if not any(snapshot.glob("*.safetensors")):
        raise BadInput(
            f"{name} on the hub has no *.safetensors; weights that are only pickled (*.bin, *.pth: OpenLLaMA's, for "
            "example) could run code when they are opened and are never read. The Space safetensors/convert on the hub "
            "opens a pull request with safe weights: fetch it with the revision refs/pr/NUMBER"
        )
    return snapshot


def _fetch(name: str, revision: str | None, *, quiet: bool) -> Path:
    from httpx2 import HTTPError
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{name}"
    at = f" at {revision}" if revision else ""
    try:
        with _progress(f"{name}{at}", quiet=quiet):
            return Path(
                snapshot_download(name, revision=revision, allow_patterns=list(WANTED), ignore_patterns=list(_UNWANTED))
            )
    except GatedRepoError:
        raise BadInput(
            f"{name} is gated: accept its terms at {page}, then log in with `hf auth login` and run this again"
        ) from None
    except RepositoryNotFoundError:
        raise BadInput(
            f"{name} is neither a folder here nor a public model on the hub; mend the name, or log in with "
            "`hf auth login` if it is private"
        ) from None
    except RevisionNotFoundError:
        raise BadInput(f"{name} has no revision {revision} on the hub; its branches are listed at {page}") from None
    except HFValidationError as error:
        raise BadInput(f"{name} is neither a folder here nor a hub id ({one_line(error)})") from None
    except LocalEntryNotFoundError as error:
        offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _cause(error)
        raise BadInput(
            f"{name}{at} is neither a folder here nor complete in the hub's cache ({constants.HF_HUB_CACHE}), and the "
            f"hub cannot be reached ({offline}); go online, or give a folder"
        ) from None
    except (HTTPError, OSError) as error:
        raise BadInput(
            f"the download of {name} broke off ({one_line(error)}); run this again, it goes on where it stopped"
        ) from error


def _cause(error: BaseException) -> str:
    return one_line(error.__cause__ or error)


@contextmanager
def _progress(name: str, *, quiet: bool) -> Iterator[None]:
    """The hub's own bars in a terminal, a line before and after elsewhere."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars = sys.stderr.isatty() and not quiet
    if bars or are_progress_bars_disabled():
        yield
        return
    if not quiet:
        print(f"fetch {name} from the hub", file=sys.stderr, flush=True)
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
