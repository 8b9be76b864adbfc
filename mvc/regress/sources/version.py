"""What was measured: as it was asked for, and as it was resolved."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """One side of a comparison, or what a recording is of; None where something is not known.

    Attributes:
        asked: as the user named it: a git revision, "." for the checkout as it is, "installed", or a file.
        commit: the full id.
        time: of the commit, in ISO format with its time zone.
        dirty: whether the sources differed from the commit.
        branch: that was checked out.
        folder: of the sources that were measured, or of the checkout that they come from.
    """

    asked: str
    commit: str | None = None
    time: str | None = None
    dirty: bool | None = None
    branch: str | None = None
    folder: str | None = None

    @property
    def name(self) -> str:
        """The short id, with -dirty where the sources differed from the commit; "installed" without a commit."""
        return (self.commit or "installed")[:12] + ("-dirty" if self.dirty else "")

    def __str__(self) -> str:
        """For people: as asked, as resolved, and the folder."""
        commit = "no known commit" if self.commit is None else f"commit {self.commit[:12]}"
        changes = ", with changes that are not committed" if self.dirty else ""
        folder = f", {self.folder}" if self.folder else ""
        return f"{self.asked} ({commit}{changes}{folder})"


def checkout(folder: Path | None, asked: str) -> Version:
    """The version of the sources in a folder; its commit is None where git does not track them.

    Args:
        folder: of a package, such as mvc's.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    tracked = folder is not None and git("ls-files", "--error-unmatch", "__init__.py") is not None
    head = git("rev-parse", "HEAD") if tracked else None
    if head is None:
        return Version(asked=asked, folder=folder and str(folder))
    return Version(
        asked=asked,
        commit=head,
        time=git("show", "-s", "--format=%cI", "HEAD").replace("Z", "+00:00"),
        dirty=bool(git("status", "--porcelain")),
        branch=git("rev-parse", "--abbrev-ref", "HEAD"),
        folder=str(folder),
    )
