"""Files that were built or measured once for a machine, in a folder that processes and users may share.

A file is whole or absent, and every user who may read its folder may read it, whatever the umask of its writer. What
cannot be kept in the shared folder is kept in a private one below the system's folder for temporary files, with a
warning.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

READ, WRITE = 0o444, 0o666  # permissions of others, where the folder has them


def folder() -> Path:
    """$MVC_CACHE_DIR, by default $XDG_CACHE_HOME/mvc or ~/.cache/mvc; without a home, the private folder."""
    if own := os.environ.get("MVC_CACHE_DIR"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mvc"
    except RuntimeError:
        return _private()


def find(name: str) -> Iterator[Path]:
    """The files of that name that can be read, the shared one first."""
    for place in _folders():
        path = place / name
        with contextlib.suppress(OSError):  # no such folder, or another user's in the private one's place
            if place == _private():
                _check_private()
            if os.access(path, os.R_OK):
                yield path
            elif path.exists():
                _warn_once(f"{path} cannot be read; it is made again, or found in {_private()}; set MVC_CACHE_DIR")


def update(name: str, write: Callable[[Path], None]) -> Path:
    """Call `write(path)` under a lock, in the first folder where that works.

    Returns:
        the file's path.

    Raises:
        OSError: in none.
    """
    reason = None
    for place in _folders():
        path = place / name
        try:
            place.mkdir(mode=0o700 if place == _private() else 0o777, parents=True, exist_ok=True)
            if place == _private():
                _check_private()
            # Released by the system when its holder dies.
            with FileLock(path.with_suffix(".lock"), mode=_permissions(place, WRITE)):
                write(path)
        except OSError as error:
            reason = reason or error
            continue
        if reason is not None:
            _warn_once(
                f"the cache {folder()} cannot be written ({reason}); {place} serves in its place; set MVC_CACHE_DIR"
            )
        return path
    raise reason


def replace(made: Path, path: Path) -> None:
    """Rename `made`, a file or a folder of files, to `path` beside it, readable by all who may read `path`'s folder."""
    mode = _permissions(path.parent, READ)
    if made.is_dir():
        for file in made.iterdir():
            file.chmod(mode)
        mode |= (mode & READ) >> 2  # who reads a folder enters it
    made.chmod(mode)
    made.replace(path)


def keep(name: str, content: bytes) -> None:
    """Write a file that was made elsewhere, unless there is one of that name.

    Raises:
        OSError: no folder can be written to.
    """
    if not any(find(name)):
        update(name, lambda path: None if path.exists() else replace_bytes(path, content))


def replace_text(path: Path, text: str) -> None:
    """Write a text; what was there goes once the new one is whole."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file; what was there goes once the new one is whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        replace(Path(name), path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _folders() -> list[Path]:
    return list(dict.fromkeys((folder(), _private())))


def _private() -> Path:
    return Path(tempfile.gettempdir()) / f"mvc-{os.getuid()}"


def _check_private() -> None:
    """Raise OSError unless the private folder is nobody else's: libraries are loaded from it."""
    found = _private().lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{_private()} is not a folder that this user alone can write to")


def _permissions(place: Path, others: int) -> int:
    """The owner's permissions, and those of `others` that the folder has for its group and for everybody."""
    return 0o600 | (stat.S_IMODE(place.stat().st_mode) & others)


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)
