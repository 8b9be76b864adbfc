"""A run's temporary folder and its turn on the device. Both are locks that end with the process, however it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from mvc.errors import UserError
from mvc.measure import nvml
from mvc.progress import Progress
from mvc.regress.sources.git import GitError, git

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

FOLDERS = "mvc-regress-run-"  # each is locked by its run for as long as that lives
WORK_TREES = "mvc-regress-"  # folders in which older gates registered work trees
POLL_SECONDS = 0.2
FOR_ALL = 0o666  # every user may lock and write the file


class Scratch:
    """A new temporary folder that goes with the block. Folders of runs that died are removed first.

    A run that is alive holds a lock on its folder, which the system releases when the process ends. A folder that is
    found before its run could lock it is removed with the lock held, and that run makes another.

    Attributes:
        path: the folder.
    """

    def __enter__(self) -> Scratch:
        try:
            _remove_dead()
            self._lock = None
            while self._lock is None:
                self.path = Path(tempfile.mkdtemp(prefix=FOLDERS))
                self._lock = _lock(self.path)
        except OSError as error:
            raise UserError(f"no temporary folder can be made ({error}); free some space, or set TMPDIR") from error
        return self

    def folder(self) -> Path:
        """A new, empty folder in it."""
        return Path(tempfile.mkdtemp(dir=self.path))

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)  # a process that still writes: the next run removes the rest
        os.close(self._lock)


def _remove_dead() -> None:
    if fcntl is None:
        return  # nothing tells which are dead
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*"):
        with contextlib.suppress(PermissionError, NotADirectoryError):  # another user's, or no folder of a run
            if (lock := _lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def prune_work_trees(repository: Path) -> None:
    """Unregister the work trees of older gates whose folders are gone; nobody else's."""
    for block in git("worktree", "list", "--porcelain", folder=repository).split("\n\n"):
        path = Path(block.partition("\n")[0].removeprefix("worktree "))
        if path.parent.name.startswith(WORK_TREES) and not path.exists():
            with contextlib.suppress(GitError):  # a checkout that cannot be written to keeps them
                git("worktree", "remove", "--force", "--force", str(path), folder=repository)  # twice: locked ones too


@contextlib.contextmanager
def device_lock(device: torch.device, progress: Progress, *, wait: bool = True) -> Iterator[None]:
    """Hold the device for as long as the block lasts: one run of the gate measures on it at a time.

    Args:
        device: the CPU, or a GPU, which is known by its own number and not by torch's.
        wait: for a run that holds it, and say so.

    Raises:
        UserError: another run holds it and `wait` is off, or the lock cannot be used.
    """
    path = Path(tempfile.gettempdir()) / f"mvc-regress-{_key(device)}.lock"
    if fcntl is None:
        progress.say("this system has no locks of files: another run on the same device is not noticed")
        yield
        return
    if (lock := _lock(path, make=True)) is None:
        holder = f"process {_text(path) or 'of another run'} measures on {device}"
        if not wait:
            raise UserError(f"{holder} already; wait for its end, or leave out --no-wait")
        with progress.step(f"waiting: {holder}"):
            while (lock := _lock(path, make=True)) is None:
                time.sleep(POLL_SECONDS)
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):  # another user's file, in a folder where only its owner removes it
            path.unlink()
        os.close(lock)


def _key(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return f"gpu-{uuid or nvml.bus_id(device)}".replace(":", "-")


def _lock(path: Path, *, make: bool = False) -> int | None:
    """Lock a folder, or with `make` a file; None where another process holds it, or the folder is gone.

    Args:
        make: make the file if there is none, such that every user can lock it.

    Returns:
        a file descriptor, whose closing releases the lock.

    Raises:
        OSError: the folder cannot be opened.
        UserError: the file system has no locks, or the file cannot be made.
    """
    if fcntl is None:
        return os.open(os.devnull, os.O_RDONLY)
    try:
        file = _open_for_all(path) if make else os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file), os.stat(path)):  # and not one that was removed meanwhile
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(file)
        raise UserError(
            f"{path} cannot be locked ({error.strerror}); set TMPDIR to a folder of a local disk"
        ) from error
    os.close(file)
    return None


def _open_for_all(path: Path) -> int:
    while True:
        try:
            with contextlib.suppress(FileNotFoundError):  # without O_CREAT, which is refused for another user's file
                return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            with contextlib.suppress(FileExistsError):
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                os.fchmod(file, FOR_ALL)
                return file
        except OSError as error:
            raise UserError(f"{path} cannot be opened ({error.strerror}); remove it, or set TMPDIR") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
