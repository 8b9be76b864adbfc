"""Revisions as folders: which commits are meant, what is written, and what git refuses."""

import os
import shutil
import stat
from pathlib import Path
from typing import NamedTuple

import pytest
from git_repository import Repository, run

from mvc.errors import UserError
from mvc.regress.sources import git as git_module, scratch, version
from mvc.regress.sources.git import GitError, NoRepository, git
from mvc.regress.sources.revisions import resolve, sources
from mvc.regress.sources.scratch import Scratch
from mvc.regress.sources.version import branch_of, checkout, require_own


@pytest.fixture
def repository(tmp_path):
    made = Repository(tmp_path / "repository")
    made.commit({"package/__init__.py": "", "a.py": "1"})
    return made


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Writes the sources of a revision; the folder and the remarks."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(temporary))
    with Scratch() as folder:

        def written(repository, revision="HEAD"):
            found = sources(resolve(revision, revision, folder=repository.folder).base, folder)
            return found.folder, found.remarks

        yield written
    assert list(temporary.iterdir()) == []


class Clone(NamedTuple):
    folder: Path


def state(folder):
    """Every file of a repository with its contents and its time."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in folder.rglob("*")
    }


def test_sources_are_those_of_the_commit_and_the_repository_stays_as_it_is(repository, written):
    repository.git("config", "core.splitIndex", "true")
    first = repository.commit(
        {"b.py": "2", ".gitattributes": "b.py export-ignore\n*.txt eol=crlf\n", "c.txt": "a\nb\n"}
    )
    (repository.folder / "l").symlink_to("a.py")
    repository.commit({"a.py": "changed", ".gitattributes": "*.txt eol=lf\n"})
    repository.git("config", "core.sparseCheckout", "true")
    repository.write({".git/info/sparse-checkout": "a.py\n"})
    for hook in ("post-checkout", "post-index-change", "reference-transaction"):
        path = repository.folder / ".git/hooks" / hook
        path.write_text(f"#!/bin/sh\ntouch {repository.folder}/ran\n")
        path.chmod(0o755)
    before = state(repository.folder)
    tree, remarks = written(repository, first)
    assert remarks == []
    assert {path.name for path in tree.rglob("*")} == {
        ".gitattributes",
        "a.py",
        "b.py",
        "c.txt",
        "package",
        "__init__.py",
    }
    assert (tree / "a.py").read_text() == "1"
    assert (tree / "c.txt").read_bytes() == b"a\r\nb\r\n", "by the attributes of that commit"
    assert (written(repository)[0] / "l").is_symlink()
    assert state(repository.folder) == before


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_checkout_that_cannot_be_written_to_will_do(repository, written):
    folders = [path for path in repository.folder.rglob("*") if path.is_dir()]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert (written(repository)[0] / "a.py").read_text() == "1"
    for folder in folders:
        folder.chmod(stat.S_IRWXU)


def test_the_working_tree_is_the_checkout_itself(repository, written):
    assert written(repository, ".") == (repository.folder, [])


def test_a_work_tree_of_the_users_is_a_checkout_too(repository, tmp_path):
    repository.git("worktree", "add", "--quiet", "-b", "topic", tmp_path / "tree")
    repository.write({"../tree/a.py": "changed"})
    pair = resolve("HEAD", ".", folder=tmp_path / "tree")
    assert [(side.branch, side.dirty) for side in (pair.base, pair.head)] == [("topic", False), ("topic", True)]
    with Scratch() as scratch:
        assert (sources(pair.base, scratch).folder / "a.py").read_text() == "1"
    assert len(repository.git("worktree", "list").splitlines()) == 2


def test_submodules_are_written_or_told(repository, written, tmp_path):
    library = Repository(tmp_path / "library")
    library.commit({"lib.py": "3"})
    repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", library.folder, "third/lib")
    repository.commit()
    tree, remarks = written(repository)
    assert (tree / "third/lib/lib.py").read_text() == "3"
    assert remarks == []
    repository.git("submodule", "--quiet", "deinit", "--force", "third/lib")
    tree, remarks = written(repository)
    assert list((tree / "third/lib").iterdir()) == []
    assert "HEAD: the submodule third/lib is empty" in remarks[0]
    assert "git submodule update --init" in remarks[0]


def test_what_stands_for_large_files_is_told(repository, written):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    repository.commit({"w.bin": pointer, ".gitattributes": "*.bin filter=lfs\n", "v.bin": pointer, "no.txt": pointer})
    _, remarks = written(repository)
    assert "did not fetch v.bin and 1 more: a pointer stands for it" in remarks[0]
    repository.git("config", "filter.lfs.smudge", "git-lfs-that-is-not-there smudge")
    repository.git("config", "filter.lfs.required", "true")
    with pytest.raises(GitError, match=r"install git-lfs, or .* GIT_LFS_SKIP_SMUDGE=1"):
        written(repository)


def diverged(repository):
    """main gains two commits after the branch was made, which gains one."""
    base = repository.git("rev-parse", "HEAD")
    repository.git("checkout", "--quiet", "-b", "branch")
    head = repository.commit({"b.py": ""})
    repository.git("checkout", "--quiet", "main")
    repository.commit()
    main = repository.commit()
    repository.git("checkout", "--quiet", "branch")
    return base, main, head


@pytest.mark.parametrize("named", ["main...HEAD", "main...branch", "main...", "main...."])
def test_three_dots_mean_the_merge_base(repository, named):
    base, _, head = diverged(repository)
    pair = resolve(named, folder=repository.folder / "package")
    assert (pair.base.commit, pair.head.commit, pair.root) == (base, head, repository.folder)
    assert pair.base.asked == f"merge base of main and {pair.head.asked}"
    assert pair.base.branch is None
    assert pair.head.branch == "branch"
    assert pair.remarks == []


@pytest.mark.parametrize("head", ["HEAD", "."])
def test_commits_that_only_the_base_has_are_counted(repository, head):
    _, main, _ = diverged(repository)
    pair = resolve("main", head, folder=repository.folder)
    assert (pair.base.commit, pair.base.branch, pair.base.dirty) == (main, "main", False)
    assert pair.remarks == [
        f"main is 2 commits ahead of the merge base with {head}; `compare main...{head}` leaves them out"
    ]
    assert resolve("main~2", head, folder=repository.folder).remarks == []


def test_what_cannot_be_resolved_is_answered_by_what_can(repository, tmp_path):
    folder = repository.folder
    with pytest.raises(UserError, match=r"'no' is no file and no commit of .*; its branches are main; give one"):
        resolve("no", "HEAD", folder=folder)
    with pytest.raises(UserError, match=r"'a..b' names two revisions"):
        resolve("main", "a..b", folder=folder)
    with pytest.raises(UserError, match=r"'main' is one revision; give BASE and HEAD, or BASE\.\.\.HEAD"):
        resolve("main", folder=folder)
    repository.git("branch", "topic")
    run("git", "clone", "--quiet", folder, tmp_path / "clone", cwd=tmp_path)
    with pytest.raises(UserError, match=r"'topic' is no .*; there is the branch origin/topic of a remote"):
        resolve("topic", "HEAD", folder=tmp_path / "clone")
    assert resolve("origin/topic", "HEAD", folder=tmp_path / "clone").base.branch == "topic"


def test_histories_that_share_nothing_have_no_merge_base(repository):
    repository.git("checkout", "--quiet", "--orphan", "other")
    repository.commit(message="another start")
    with pytest.raises(UserError, match=r"have no merge base in .*; compare them as BASE and HEAD"):
        resolve("main...HEAD", folder=repository.folder)
    assert "have no merge base here" in resolve("main", "HEAD", folder=repository.folder).remarks[0]


def test_a_shallow_clone_is_told_with_the_remedy(repository, tmp_path):
    diverged(repository)
    shallow = tmp_path / "shallow"
    run(
        "git",
        "clone",
        "--quiet",
        "--depth=1",
        "--no-single-branch",
        f"file://{repository.folder}",
        shallow,
        cwd=tmp_path,
    )
    for named in (("HEAD~1", "HEAD"), ("origin/main...HEAD",)):
        with pytest.raises(
            UserError, match="this clone is shallow: run `git fetch --unshallow`, or set `fetch-depth: 0`"
        ):
            resolve(*named, folder=shallow)
    assert "this clone is shallow" in resolve("origin/main", "HEAD", folder=shallow).remarks[0]


def test_no_git_and_no_repository_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(NoRepository, match="is not a git repository; run in a checkout"):
        resolve("HEAD", "HEAD", folder=tmp_path)
    with pytest.raises(NoRepository, match="is no folder"):
        git("status", folder=tmp_path / "nowhere")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoRepository, match=r"git cannot be run .*; install it"):
        git("status", folder=tmp_path)


@pytest.mark.parametrize(
    "complaint",
    [
        "fatal: detected dubious ownership in repository at '/a b'\nTo add an exception for this directory, call:\n\n"
        "\tgit config --global --add safe.directory '/a b'",
        "fatal: unsafe repository ('/a b' is owned by someone else)\nTo add an exception for this directory, call:\n\n"
        "\tgit config --global --add safe.directory /a b",
    ],
    ids=["git 2.36", "git 2.35"],
)
def test_ownership_is_refused_with_the_command_that_trusts(complaint, tmp_path, monkeypatch):
    program = tmp_path / "git"
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{complaint}\nEND\nexit 128\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(GitError, match=r"run `git config --global --add safe.directory /a b`$"):
        checkout(tmp_path, "installed")


def test_a_repository_of_another_user_is_refused_with_the_command_that_trusts_it(repository, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(GitError, match=f"--add safe.directory {repository.folder}`$"):
        checkout(repository.folder, "installed")


def test_files_that_a_partial_clone_cannot_fetch_are_told(repository, written, tmp_path):
    repository.git("config", "uploadpack.allowFilter", "true")
    partial = tmp_path / "partial"
    run(
        "git",
        "clone",
        "--quiet",
        "--no-checkout",
        "--filter=blob:none",
        f"file://{repository.folder}",
        partial,
        cwd=tmp_path,
    )
    repository.folder.rename(tmp_path / "gone")
    with pytest.raises(
        GitError, match=r"partial/\.git: this clone lacks files .*; let it be reached, or clone without"
    ):
        written(Clone(partial))


def test_an_unknown_complaint_is_passed_on(repository):
    with pytest.raises(GitError, match=r"git cat-file failed in .*Not a valid object name nothing"):
        git("cat-file", "-p", "nothing", folder=repository.folder)


def test_the_folder_alone_says_which_repository(repository, tmp_path, monkeypatch):
    other = Repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other.folder / ".git"))
    assert git_module.root(repository.folder) == repository.folder


@pytest.mark.parametrize(
    ("name", "dirty"),
    [("new.py", True), ("data/new.yaml", True), ("result.json", False), ("a.egg-info/PKG-INFO", False), ("x.o", False)],
)
def test_files_that_git_does_not_track_count_unless_they_are_results(repository, name, dirty):
    repository.commit({".gitignore": "*.o\n"})
    assert checkout(repository.folder, ".").dirty is False
    repository.write({name: ""})
    assert checkout(repository.folder / "package", ".").dirty is dirty


def test_a_change_makes_the_checkout_dirty(repository):
    repository.write({"a.py": "2"})
    found = checkout(repository.folder, ".")
    assert (found.dirty, found.branch, found.commit) == (True, "main", repository.git("rev-parse", "HEAD"))
    assert found.name.endswith("-dirty")


def test_what_git_does_not_track_has_no_version(repository):
    repository.commit({".gitignore": "venv\n"})
    repository.write({"venv/package/__init__.py": ""})
    assert checkout(repository.folder / "venv/package", "installed").commit is None
    assert Repository(repository.folder.parent / "empty").folder, "no commit yet"
    assert checkout(repository.folder.parent / "empty", ".").commit is None


@pytest.mark.parametrize(("branch", "of"), version.BRANCHES)
def test_a_commit_without_branch_has_the_one_that_the_service_says(repository, branch, of):
    commit = repository.git("rev-parse", "HEAD")
    said = {branch: "topic", of: commit}
    assert branch_of("HEAD", commit, repository.folder, said) == "main"
    repository.git("checkout", "--quiet", "--detach")
    assert branch_of("HEAD", commit, repository.folder, said) == "topic"
    assert branch_of("HEAD", commit, repository.folder, {**said, of: "0" * 40}) is None, "of another commit"
    assert branch_of("HEAD", commit, repository.folder, {}) is None
    assert branch_of("HEAD~0", commit, repository.folder, said) is None


def test_a_checkout_with_its_own_copy_is_not_measured_elsewhere(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository.folder / "package")
    require_own(repository.folder / "package")
    installed = tmp_path / "site-packages/package"
    shutil.copytree(repository.folder / "package", installed)
    with pytest.raises(UserError, match=f"package is imported from {installed}, but this checkout has its own in"):
        require_own(installed)
    require_own(tmp_path / "site-packages/other")
    require_own(installed, folder=tmp_path)
