"""Files that are whole or absent: written under another name first."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from mvc.errors import UserError


def encodable(text: str) -> str:
    """The text with an escape such as \\udce9 for what UTF-8 cannot hold: bytes of a file's name that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def require_folder(path: Path, option: str) -> None:
    """Refuse at once a file that could not be written after long work.

    Args:
        option: the command's option that named the file, for the message.

    Raises:
        UserError: the file's folder does not exist or cannot be written to.
    """
    folder = path.absolute().parent
    if path.exists() and not path.is_file() and not path.is_dir():
        return  # a pipe or a device
    if path.is_dir():
        raise UserError(f"cannot write {option} {path}: it is a folder; name a file")
    if not folder.is_dir():
        raise UserError(f"cannot write {option} {path}: there is no folder {path.parent}; make it, or name another")
    try:
        with _partial(path) as partial:
            partial.touch()  # what os.access says does not hold for root, nor everywhere
    except OSError as error:
        reason = f"{path.parent} cannot be written to ({error.strerror})"
        raise UserError(f"cannot write {option} {path}: {reason}; name another folder") from error


@contextlib.contextmanager
def replacing(path: Path, *, suffix: str = "") -> Iterator[Path]:
    """Yield a path beside `path`, ending in `suffix`, whose file replaces that of `path` when the block ends. A pipe or
    a device is written to directly."""
    if path.exists() and not path.is_file():
        yield path  # for a folder, the caller's write fails
        return
    with _partial(path, suffix) as partial:
        yield partial
        os.replace(partial, path)


def replace(path: Path, text: str) -> None:
    """Write a text to a file; an existing file stays until the new one is whole."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def add(path: Path, text: str) -> Path:
    """Write a new file, called NAME-2, NAME-3 and so on where the name is taken. No writer overwrites another's file.

    Returns:
        the file that was written.
    """
    candidates = itertools.chain([path], (path.with_stem(f"{path.stem}-{serial}") for serial in itertools.count(2)))
    with _partial(path) as partial:
        partial.write_text(text, encoding="utf-8")
        while True:
            candidate = next(candidates)
            with contextlib.suppress(FileExistsError):
                os.link(partial, candidate)  # unlike a rename, it fails where there is a file
                return candidate


@contextlib.contextmanager
def _partial(path: Path, suffix: str = "") -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{suffix}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
