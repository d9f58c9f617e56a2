"""Nothing half-written: a folder is filled under a temporary name beside its place and renamed when it is whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import BadInput


@contextmanager
def staged_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `out`; when the block ends well, it becomes `out` by a rename.

    When the block fails or the process is killed, `out` is what it was before; the next run removes the rest.

    Raises:
        BadInput: `out` is a file, or a folder with something in it and `overwrite` is false; or it cannot be made.
    """
    # Its name is about to be given to another folder, and that of the place where one works cannot be.
    if out.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise BadInput(f"the output folder {out} is or holds the current one, which stays; name a new folder")
    partial = out.with_name(f".{out.name}.partial")
    replaced = out.with_name(f".{out.name}.replaced")
    with unusable_is_bad_input(out):
        if replaced.exists() and not out.exists():
            replaced.rename(out)  # killed between the two renames below
        check_free(out, overwrite=overwrite)
        out.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)
        partial.mkdir()
    try:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                sync(path)
        shutil.rmtree(replaced, ignore_errors=True)
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def unusable_is_bad_input(out: Path) -> Iterator[None]:
    """Turn any error of the system into `BadInput`, while the folder `out` is looked at and made."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"{error.filename or out} cannot be used for the output ({error.strerror or error}); choose another folder"
        ) from None


def remove(path: Path) -> None:
    """Remove whatever has this name, a folder with its content; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_free(out: Path, *, overwrite: bool = False) -> None:
    """Raise `BadInput` unless the folder `out` is missing, empty, or may be overwritten."""
    # A device or a socket too: as a privileged user one could take its place.
    if os.path.lexists(out) and not out.is_dir():
        raise BadInput(f"{out} is a file; name a folder for the output")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise BadInput(f"the output folder {out} is not empty; choose another or pass --overwrite")


def sync(path: Path) -> None:
    """Ask the operating system to put the file on the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
