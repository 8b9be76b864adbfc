"""The sources of a git revision in a folder of their own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mvc.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WORKING_TREE = "."  # names the sources as they are, changes included


def _git(*arguments: str, folder: Path | None = None) -> str:
    """What git prints. Its last line of complaint becomes the error."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"git cannot be run ({error.strerror}); compare two recordings instead") from error
    if done.returncode:
        raise UserError(f"git {' '.join(arguments[:2])} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


@contextlib.contextmanager
def sources(revision: str) -> Iterator[Path]:
    """The folder with a revision's sources: a work tree that goes with the block, or for "." the checkout itself.

    Raises:
        UserError: outside a git checkout, or no such revision.
    """
    root = Path(_git("rev-parse", "--show-toplevel"))
    if revision == WORKING_TREE:
        yield root
        return
    try:
        commit = _git("rev-parse", "--verify", f"{revision}^{{commit}}", folder=root)
    except UserError as error:
        raise UserError(
            f"{revision!r} is no file and no commit of {root}; give a recording or a git revision"
        ) from error
    with tempfile.TemporaryDirectory(prefix="mvc-regress-", ignore_cleanup_errors=True) as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--detach", str(tree), commit, folder=root)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree), folder=root)


def dependencies(tree: Path) -> list[str]:
    """The dependencies of the sources in a folder. Both sides run with the packages that are installed.

    Raises:
        UserError: they do not say.
    """
    path = tree / "pyproject.toml"
    try:
        return sorted(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} tells no dependencies ({error}); record each side and compare the files") from error
