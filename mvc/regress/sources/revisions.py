"""Git revisions: which commits two sides are, and their sources in folders of their own."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mvc.errors import UserError
from mvc.regress.sources.git import UNSHALLOW, attempt, git, is_shallow, root
from mvc.regress.sources.scratch import Scratch, prune_work_trees
from mvc.regress.sources.version import Version, branch_of, checkout, time_of

WORKING_TREE = "."  # names the sources as they are, changes included
SINCE = "..."  # between two revisions, as in git: the head against the merge base of both
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # begins the file that stands for another
SHOWN = 8  # branches in a message


class Pair(NamedTuple):
    """The two sides of a comparison.

    Attributes:
        root: the top folder of the checkout.
        remarks: what the reader of the result has to know about them, a sentence each.
    """

    base: Version
    head: Version
    root: Path
    remarks: list[str]


class Sources(NamedTuple):
    """The sources of a version.

    Attributes:
        name: of the version, for people.
        folder: their top folder.
        remarks: what they lack, a sentence each.
    """

    name: str
    folder: Path
    remarks: list[str]


def resolve(base: str, head: str | None = None, *, folder: Path | None = None) -> Pair:
    """The two sides that a user named: BASE and HEAD, or BASE...HEAD alone for HEAD against the merge base of both.

    Args:
        base, head: git revisions; "." is the checkout as it is.
        folder: in the checkout, by default the current one.

    Raises:
        UserError: outside a git checkout, no such revision, or no merge base where one is asked for.
    """
    top = root(folder)
    if head is not None:
        if named := next((side for side in (base, head) if ".." in side), None):
            raise UserError(f"{named!r} names two revisions; give it alone, or each side as one revision")
        pair = (version(base, top), version(head, top))
        return Pair(*pair, top, _ahead(base, head, pair[0].commit, pair[1].commit, top))
    base, since, head = base.partition(SINCE)
    if not since:
        raise UserError(f"{base!r} is one revision; give BASE and HEAD, or BASE...HEAD for the merge base of both")
    sides = [version(name or "HEAD", top) for name in (base, head)]
    commit = _merge_base(sides[0].commit, sides[1].commit, top)
    if commit is None:
        names = f"{sides[0].asked} and {sides[1].asked}"
        reason = UNSHALLOW if is_shallow(top) else "compare them as BASE and HEAD, two arguments"
        raise UserError(f"{names} have no merge base in {top}; {reason}")
    asked = f"merge base of {sides[0].asked} and {sides[1].asked}"
    time = time_of(commit, top)
    merge_base = Version(asked=asked, commit=commit, time=time, dirty=False, folder=str(top))
    return Pair(merge_base, sides[1], top, [])


def version(revision: str, top: Path) -> Version:
    """The version that a revision names.

    Args:
        top: the checkout's folder.

    Raises:
        UserError: there is no such commit.
    """
    if revision == WORKING_TREE:
        return checkout(top, revision)
    commit = attempt("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", folder=top)
    if commit is None:
        raise UserError(f"{revision!r} is no file and no commit of {top}; {_remedy(revision, top)}")
    branch = branch_of(revision, commit, top)
    time = time_of(commit, top)
    return Version(asked=revision, commit=commit, time=time, dirty=False, branch=branch, folder=str(top))


def _remedy(revision: str, top: Path) -> str:
    """What to name instead of a revision that does not exist."""
    branches = git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/remotes", folder=top).splitlines()
    if same := [each for each in branches if each.partition("/")[2] == revision]:
        return f"there is the branch {' or '.join(same)} of a remote; name that"
    if is_shallow(top):
        return UNSHALLOW
    if not branches:
        return "it has no branches; give two recordings, or ids of commits"
    more = f" and {len(branches) - SHOWN} more" if len(branches) > SHOWN else ""
    return f"its branches are {', '.join(branches[:SHOWN])}{more}; give one of them, another revision, or a recording"


def _merge_base(base: str | None, head: str | None, top: Path) -> str | None:
    if base is None or head is None:
        return None
    return attempt("merge-base", base, head, folder=top)


def _ahead(base: str, head: str, base_commit: str | None, head_commit: str | None, top: Path) -> list[str]:
    """By how many commits the base is ahead of the merge base: what it has gained looks like a change of the head."""
    merge_base = _merge_base(base_commit, head_commit, top)
    if merge_base is None:
        reason = f"; {UNSHALLOW}" if is_shallow(top) else ""
        return [f"{base} and {head} have no merge base here: they may differ by much else{reason}"]
    count = int(git("rev-list", "--count", f"{merge_base}..{base_commit}", folder=top))
    if not count:
        return []
    commits, them = ("commit", "it") if count == 1 else ("commits", "them")
    compare = f"`compare {base}{SINCE}{head}` leaves {them} out"
    return [f"{base} is {count} {commits} ahead of the merge base with {head}; {compare}"]


def sources(version: Version, scratch: Scratch) -> Sources:
    """The sources of a version: the checkout itself where that is the version, or else a folder of their own.

    Nothing is written into the repository, no work tree is registered and no hook runs. Those that older gates left are
    unregistered where the repository can be written to. What .gitattributes leaves out of archives is there, and a
    submodule is, where its commit is in the checkout.

    Args:
        version: of `resolve`.
        scratch: receives the sources, and git's index of them.

    Raises:
        UserError: git cannot write them.
    """
    top = Path(version.folder)
    if version.asked == WORKING_TREE:
        return Sources(version.asked, top, [])
    prune_work_trees(top)
    tree = scratch.folder()
    remarks = _write(version.commit, top, tree, scratch.folder() / "index", "")
    return Sources(version.asked, tree, [f"{version.asked}: {remark}" for remark in remarks])


def _write(commit: str, repository: Path, tree: Path, index: Path, within: str) -> list[str]:
    """Write the files of a commit, and of its submodules, into an empty folder; return what is missing.

    Args:
        index: git's list of the files; written anew.
        within: the path of a submodule in the whole, for remarks.
    """

    directory = git("rev-parse", "--absolute-git-dir", folder=repository)
    environment = {"GIT_DIR": directory, "GIT_WORK_TREE": str(tree), "GIT_INDEX_FILE": str(index)}

    def run(*arguments: str) -> str:
        return git(*arguments, folder=tree, environment=environment)

    run("read-tree", "-m", "-u", "--no-sparse-checkout", commit)
    large = [name for name in run("ls-files", "-z", "--", ":(attr:filter=lfs)").split("\0") if name]
    pointers = sorted(within + name for name in large if _begins(tree / name, LFS_POINTER))
    remarks = [_pointers(pointers)] if pointers else []
    entries = (entry.partition("\t") for entry in run("ls-files", "--stage", "-z").split("\0"))
    for facts, _, name in entries:
        mode, _, rest = facts.partition(" ")
        if mode == "160000":  # a submodule, for which git leaves an empty folder
            remarks += _write_submodule(rest.split()[0], repository / name, tree / name, index, within + name)
    return remarks


def _write_submodule(commit: str, repository: Path, tree: Path, index: Path, name: str) -> list[str]:
    present = (repository / ".git").exists() and attempt("cat-file", "-e", commit, folder=repository) is not None
    if not present:
        return [
            f"the submodule {name} is empty: its commit {commit[:12]} is not in this checkout; run"
            " `git submodule update --init --recursive`, and `git fetch` in it"
        ]
    index.unlink()
    return _write(commit, repository, tree, index, f"{name}/")


def _pointers(names: list[str]) -> str:
    first = names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    return f"Git LFS did not fetch {first}: a pointer stands for it; install git-lfs and run `git lfs fetch --all`"


def _begins(path: Path, start: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(start)) == start
