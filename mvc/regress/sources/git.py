"""git as a program: what it prints, and for what it refuses a sentence with the remedy."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from mvc.errors import UserError

# git runs none of the repository's hooks, starts no file-system monitor, and keeps an index in one file.
SETTINGS = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.splitIndex=false")
# Messages in English, in which remedies are found; no question that nobody answers; no refreshed index of the user's.
ENVIRONMENT = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
OF_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX")  # set where git runs one
UNSHALLOW = "this clone is shallow: run `git fetch --unshallow`, or set `fetch-depth: 0` of actions/checkout"
REMEDIES = (  # the first complaint that is found decides; {folder} and the groups of the expression are filled in
    (
        r"safe\.directory '?(?P<path>[^'\n]+)",
        "git trusts no repository that belongs to another user; run `git config --global --add safe.directory {path}`",
    ),
    (
        r"git-lfs|filter lfs",
        "Git LFS failed; install git-lfs, or where the cases do not read such files set GIT_LFS_SKIP_SMUDGE=1, and"
        " without git-lfs run `git config --global --remove-section filter.lfs`",
    ),
    (
        r"from promisor remote",
        "this clone lacks files that its remote did not hand out; let it be reached, or clone without --filter",
    ),
)
SHOWN = 5  # lines of git's complaint


class GitError(UserError):
    """git refused; the message says what and the remedy, or git's own words."""


class NoRepository(GitError):
    """There is no git, or the folder is in no repository."""


def git(
    *arguments: str,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    input: str | None = None,
) -> str:
    """What git prints, without the white space around it.

    Args:
        folder: in the repository, by default the current one. GIT_DIR and its like, which are set where git runs
            a hook, do not count.
        environment: variables for git besides those of this process.
        input: a text for its standard input.

    Raises:
        NoRepository: there is no git, or the folder is in no repository.
        GitError: git fails otherwise.
    """
    where = Path.cwd() if folder is None else folder
    command = ["git", *(part for setting in SETTINGS for part in ("-c", setting)), *arguments]
    try:
        inherited = {name: value for name, value in os.environ.items() if name not in OF_HOOKS}
        done = subprocess.run(
            command,
            cwd=where,
            env={**inherited, **ENVIRONMENT, **(environment or {})},
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",  # names of files need not be UTF-8
        )
    except OSError as error:
        if not where.is_dir():
            raise NoRepository(f"{where} is no folder; name a checkout") from error
        raise NoRepository(f"git cannot be run ({error.strerror}); install it, or compare two recordings") from error
    if done.returncode:
        raise _refusal(arguments, (environment or {}).get("GIT_DIR", where), done.stderr.strip())
    return done.stdout.strip()


def attempt(*arguments: str, folder: Path | None = None) -> str | None:
    """What git prints, or None where it refuses for a reason without a remedy: a name that does not exist, say."""
    try:
        return git(*arguments, folder=folder)
    except _Unknown:
        return None


def root(folder: Path | None = None) -> Path:
    """The top folder of the checkout.

    Raises:
        GitError: there is none.
    """
    return Path(git("rev-parse", "--show-toplevel", folder=folder))


def is_shallow(folder: Path) -> bool:
    """Whether the repository has only the newest part of the history."""
    return git("rev-parse", "--is-shallow-repository", folder=folder) == "true"


class _Unknown(GitError):
    """A refusal for which no remedy is known."""


def _refusal(arguments: tuple[str, ...], where: str | Path, complaint: str) -> GitError:
    for pattern, remedy in REMEDIES:
        if found := re.search(pattern, complaint):
            return GitError(f"{where}: {remedy.format(**found.groupdict())}")
    if "not a git repository" in complaint:
        return NoRepository(f"{where} is not a git repository; run in a checkout, or compare two recordings")
    lines = [line for line in complaint.splitlines() if line]
    said = "; ".join(lines[-SHOWN:]) or "it does not say why"
    command = next((each for each in arguments if not each.startswith("-")), "")
    return _Unknown(f"git {command} failed in {where}: {said}")
