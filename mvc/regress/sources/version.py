"""What was measured: as it was asked for, and as it was resolved."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from mvc.errors import UserError
from mvc.regress.sources.git import NoRepository, attempt, git, root

# What continuous integration says of a commit that it checked out without a branch: the branch, and of which commit.
BRANCHES = (("GITHUB_REF_NAME", "GITHUB_SHA"), ("CI_COMMIT_BRANCH", "CI_COMMIT_SHA"), ("BRANCH_NAME", "GIT_COMMIT"))
# Untracked files that are results and not sources; all others count as changes, because code might read them.
RESULTS = frozenset((".csv", ".html", ".json", ".log", ".md", ".png", ".pyc", ".svg", ".txt", ".xml"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
    """One side of a comparison, or what a recording is of; None where something is not known.

    Attributes:
        asked: as the user named it: a git revision, "." for the checkout as it is, "installed", or a file.
        commit: the full id.
        time: of the commit, in ISO format with its time zone.
        dirty: whether the sources differed from the commit.
        branch: that was checked out or named.
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
    """The version of the sources in a folder as they are; its commit is None where git does not track them, or there is
    none yet.

    Args:
        folder: of a package, such as mvc's, or of a checkout.

    Raises:
        UserError: git refuses the repository.
    """
    if folder is None:
        return Version(asked=asked)
    try:
        tracked = git("ls-files", "--", ".", folder=folder) != ""
        commit = attempt("rev-parse", "--verify", "HEAD", folder=folder) if tracked else None
    except NoRepository:
        commit = None
    if commit is None:
        return Version(asked=asked, folder=str(folder))
    return Version(
        asked=asked,
        commit=commit,
        time=time_of(commit, folder),
        dirty=_has_changes(folder),
        branch=branch_of("HEAD", commit, folder),
        folder=str(folder),
    )


def time_of(commit: str, folder: Path) -> str:
    """When a commit was made, in ISO format with its time zone."""
    return git("show", "--no-patch", "--format=%cI", commit, folder=folder).replace("Z", "+00:00")


def branch_of(revision: str, commit: str, folder: Path, environment: Mapping[str, str] = os.environ) -> str | None:
    """The branch that a revision names. Of a commit that continuous integration checked out without a branch, it is the
    one that the service says; of a pull request that is no branch of the repository, but a name such as 12/merge."""
    full = attempt("rev-parse", "--symbolic-full-name", revision, folder=folder) or ""
    if full.startswith("refs/heads/"):
        return full.removeprefix("refs/heads/")
    if full.startswith("refs/remotes/"):
        return full.removeprefix("refs/remotes/").partition("/")[2]
    said = (environment.get(branch) for branch, of in BRANCHES if environment.get(of) == commit)
    return next(filter(None, said), None) if revision == "HEAD" else None


def _has_changes(folder: Path) -> bool:
    """Whether files differ from the commit, or there are sources that git neither tracks nor ignores."""
    entries = git("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", folder=folder).split("\0")
    untracked = (PurePosixPath(entry[3:]) for entry in entries if entry.startswith("?? "))
    return any(entry and not entry.startswith("?? ") for entry in entries) or any(map(_is_source, untracked))


def _is_source(path: PurePosixPath) -> bool:
    return path.suffix not in RESULTS and not any(part.endswith(".egg-info") for part in path.parts)


def require_own(package: Path, *, folder: Path | None = None) -> None:
    """Refuse to measure a package from elsewhere in a checkout that has its own copy.

    Args:
        package: the folder that the package was imported from.
        folder: in the checkout, by default the current one.

    Raises:
        UserError: the checkout has a package of that name, and it is another folder.
    """
    try:
        top = root(folder)
    except NoRepository:
        return
    for own in (top / package.name, top / "src" / package.name):
        if (own / "__init__.py").is_file() and not own.samefile(package):
            raise UserError(
                f"{package.name} is imported from {package}, but this checkout has its own in {own}; install the"
                " checkout, run from its top folder, or run outside of it to measure the one that is installed"
            )
