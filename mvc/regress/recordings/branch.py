"""Recordings on a branch of their own, by git's plumbing: no work tree, HEAD, index or other branch is touched."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

from mvc.errors import UserError
from mvc.regress.sources.git import GitError, attempt, git
from mvc.regress.sources.scratch import Scratch

REMOTE = "origin"
PATIENCE = 300.0  # seconds of writing again when others write at the same time
ALONE = 3  # attempts when nobody does: another's write that begins may lock the branch before it can be seen
ABOUT = "README.md"
ABOUT_TEXT = """\
Recordings of `python -m mvc.regress record`, which writes this branch. `python -m mvc.regress compare`, `history` and
`report` read it with `--branch`.
"""
# git's and servers' words for a push that is not allowed, and for one without credentials.
NOT_ALLOWED = (
    r"error: 403|[Pp]ermission .*denied|not accessible by integration|not allowed to push|[Pp]rotected|declined"
)
NO_CREDENTIALS = r"could not read Username|Authentication failed|publickey|error: 401"


class Branch:
    """A branch's recordings as files in a folder; see `opened`.

    Attributes:
        name: of the branch.
        folder: its files. What is added to it or deleted from it is committed by `save`.
    """

    def __init__(self, name: str, scratch: Scratch, repository: Path | None = None) -> None:
        self.name, self.folder = name, scratch.folder()
        self._scratch = scratch
        if attempt("check-ref-format", "--branch", name, folder=repository) is None:
            raise UserError(f"--branch is {name!r}, which is no name of a branch; choose one such as mvc-baselines")
        directory = git("rev-parse", "--absolute-git-dir", folder=repository)
        # The top folder, to which an address may be relative; of a bare repository there is none.
        self._repository = repository = Path(attempt("rev-parse", "--show-toplevel", folder=repository) or directory)
        self._environment = {"GIT_DIR": directory}
        remotes = git("remote", folder=repository).splitlines()
        # By its address, because git keeps a local copy of the branches of a remote that has a name.
        self._remote = git("remote", "get-url", "--push", REMOTE, folder=repository) if REMOTE in remotes else None
        if self._remote:  # then the checkout may be one that cannot be written to
            objects = repository / git("rev-parse", "--git-path", "objects", folder=repository)
            self._environment |= {
                "GIT_OBJECT_DIRECTORY": str(scratch.folder()),
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects.resolve()),
            }
        if attempt("var", "GIT_COMMITTER_IDENT", folder=repository) is None:
            who = {"NAME": "mvc.regress", "EMAIL": "mvc.regress@localhost"}
            roles = itertools.product(("AUTHOR", "COMMITTER"), who.items())
            self._environment |= {f"GIT_{role}_{key}": value for role, (key, value) in roles}
        self._tip = self._fetched()
        if self._tip:
            self._extract(self._tip)
        self._written = self._files()

    @property
    def where(self) -> str:
        """For people."""
        return f"the branch {self.name}" + (f" of {REMOTE}" if self._remote else "")

    @property
    def exists(self) -> bool:
        return self._tip is not None

    def require_writable(self) -> None:
        """Refuse at once a branch that could not be pushed after long measuring.

        Raises:
            GitError: the remote does not allow it.
            UserError: the branch is checked out here.
        """
        if self._remote:
            self._push(self._tip or self._commit(None, [], "Recordings"), "--dry-run")
        elif f"branch {self._ref}" in git("worktree", "list", "--porcelain", folder=self._repository).splitlines():
            raise UserError(
                f"--branch {self.name} is checked out; check out another, or name a folder with --baselines"
            )

    def save(self, message: str) -> str | None:
        """Commit what has changed in the folder, and push it. Where others have pushed meanwhile, on top of that.

        Returns:
            the commit's id, or None where nothing has changed.

        Raises:
            GitError: it cannot be written or pushed.
        """
        changed = sorted(self._written ^ self._files())
        if not changed:
            return None
        end, alone = time.monotonic() + PATIENCE, 0  # failures in a row while nobody else wrote
        while True:
            commit = self._commit(self._tip, changed, message)
            try:
                self._publish(commit)
                break
            except GitError:
                before, self._tip = self._tip, self._fetched()
                if self._tip == commit:
                    break  # it was written, and the answer was lost
                alone = alone + 1 if self._tip == before else 0
                if alone == ALONE or time.monotonic() > end:
                    raise
                time.sleep(random.uniform(0, 1))
        self._tip, self._written = commit, self._files()
        return commit

    @property
    def _ref(self) -> str:
        return f"refs/heads/{self.name}"

    def _git(self, *arguments: str, input: str | None = None, **more: str) -> str:
        return git(*arguments, folder=self._repository, environment=self._environment | more, input=input)

    def _fetched(self) -> str | None:
        """The branch's newest commit, the remote's if that has the branch; None where there is none."""
        if self._remote and (line := self._git("ls-remote", self._remote, self._ref)):
            # Writes objects, and neither a ref nor FETCH_HEAD.
            options = (
                "--quiet",
                "--no-tags",
                "--no-write-fetch-head",
                "--no-recurse-submodules",
                "--no-auto-maintenance",
            )
            self._git("fetch", *options, self._remote, self._ref)
            return line.split()[0]
        return attempt("rev-parse", "--verify", "--quiet", f"{self._ref}^{{commit}}", folder=self._repository)

    def _extract(self, commit: str) -> None:
        for entry in self._git("ls-tree", "-r", "-z", commit).split("\0")[:-1]:
            facts, _, name = entry.partition("\t")
            if not facts.startswith("100") or not (name == ABOUT or name.endswith(".json")):
                raise UserError(f"{self.where} holds {name}, which is no recording; name a branch of its own")
        index = str(self._scratch.folder() / "index")
        places = {"GIT_WORK_TREE": str(self.folder), "GIT_INDEX_FILE": index}
        self._git("read-tree", "-m", "-u", "--no-sparse-checkout", commit, **places)

    def _files(self) -> set[str]:
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*.json") if path.name[0] != ".")
        return {path.as_posix() for path in paths}

    def _commit(self, parent: str | None, changed: list[str], message: str) -> str:
        """A commit upon another, or without one the first: files that are in the folder are added, others deleted."""
        index = {"GIT_INDEX_FILE": str(self._scratch.folder() / "index")}
        self._git("read-tree", parent or "--empty", **index)
        present = {*self._git("ls-files", "-z", **index).split("\0")}
        added = [name for name in changed if (self.folder / name).exists()]
        gone = "".join(f"{name}\0" for name in changed if name not in added)
        self._git("update-index", "--force-remove", "-z", "--stdin", input=gone, **index)
        texts = {_free(name, present): (self.folder / name).read_text(encoding="utf-8") for name in added}
        if ABOUT not in present:
            texts[ABOUT] = ABOUT_TEXT
        entries = (
            f"100644 {self._git('hash-object', '-w', '--stdin', input=text)}\t{name}\0" for name, text in texts.items()
        )
        self._git("update-index", "-z", "--index-info", input="".join(entries), **index)
        tree = self._git("write-tree", **index)
        return self._git("commit-tree", tree, *(("-p", parent) if parent else ()), input=message)

    def _publish(self, commit: str) -> None:
        if self._remote:
            self._push(commit)
        else:
            self._git("update-ref", "-m", "mvc.regress record", self._ref, commit, self._tip or "")

    def _push(self, commit: str, *options: str) -> None:
        try:
            self._git("push", "--quiet", "--no-verify", *options, self._remote, f"{commit}:{self._ref}")
        except GitError as error:
            if re.search(NOT_ALLOWED, str(error)):
                remedy = (
                    "it is not allowed: on GitHub the job needs `permissions: contents: write`, and no rule may protect"
                )
                raise GitError(f"cannot push {self.where}: {remedy} the branch ({error})") from error
            if re.search(NO_CREDENTIALS, str(error)):
                remedy = "there are no credentials: actions/checkout must keep its own (persist-credentials)"
                raise GitError(f"cannot push {self.where}: {remedy} ({error})") from error
            raise


def _free(name: str, taken: set[str]) -> str:
    """The name, or where it is taken the same with -2, -3 and so on."""
    path = Path(name)
    names = itertools.chain([name], (path.with_stem(f"{path.stem}-{n}").as_posix() for n in itertools.count(2)))
    return next(each for each in names if each not in taken)


@contextlib.contextmanager
def opened(name: str, *, repository: Path | None = None) -> Iterator[Branch]:
    """The recordings of a branch in a temporary folder, for as long as the block lasts.

    Where the repository has a remote "origin", the branch is that of the remote, fetched now; else the local one.

    Args:
        repository: a folder in the checkout, by default the current one.

    Raises:
        GitError: there is no repository, or the remote cannot be read.
        UserError: the name is none of a branch, or that branch holds other files than recordings.
    """
    with Scratch() as scratch:
        yield Branch(name, scratch, repository)
