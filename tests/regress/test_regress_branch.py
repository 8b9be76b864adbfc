"""Recordings on a branch of their own: what is written, what is never touched, and two jobs that push at once."""

import hashlib
import multiprocessing
import subprocess
from pathlib import Path

import pytest

from mvc.errors import UserError
from mvc.regress.recordings import branch
from mvc.regress.recordings.branch import opened

NAME = "mvc-baselines"


def git(folder, *arguments):
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def committed(folder, text="one"):
    (folder / "code.py").write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", text)


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@example.org")


@pytest.fixture
def remote(tmp_path):
    """A bare repository with two commits on main."""
    seed, bare = tmp_path / "seed", tmp_path / "remote.git"
    seed.mkdir()
    git(seed, "init", "-q", "-b", "main")
    committed(seed)
    committed(seed, "two")
    git(tmp_path, "clone", "-q", "--bare", str(seed), str(bare))
    git(bare, "config", "uploadpack.allowFilter", "true")
    return bare


@pytest.fixture
def clone(remote, tmp_path):
    def clone(name, *options):
        git(tmp_path, "clone", "-q", *options, f"file://{remote}", name)
        return tmp_path / name

    return clone


def add(repository, name, text="{}"):
    with opened(NAME, repository=repository) as place:
        path = place.folder / "a-machine" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return place.save(f"Recording {name}")


def names(repository):
    with opened(NAME, repository=repository) as place:
        return sorted(path.name for path in place.folder.rglob("*.json"))


def contents(folder):
    """Every file of a checkout, .git included, by a digest."""
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(lambda clone: clone("whole"), id="a clone"),
        pytest.param(lambda clone: clone("shallow", "--depth=1"), id="shallow"),
        pytest.param(lambda clone: clone("partial", "--filter=blob:none"), id="partial"),
        pytest.param(lambda clone: (git(made := clone("off"), "checkout", "-q", "--detach"), made)[1], id="detached"),
    ],
)
def test_a_push_changes_nothing_in_the_checkout(prepare, clone, remote):
    checkout = prepare(clone)
    (checkout / "code.py").write_text("changed")
    (checkout / "new.py").write_text("staged")
    git(checkout, "add", "new.py")
    before = contents(checkout)
    add(checkout, "1.json")
    add(checkout, "2.json")
    assert names(checkout) == ["1.json", "2.json"]
    assert contents(checkout) == before
    assert git(remote, "log", "--format=%s", NAME).splitlines() == ["Recording 2.json", "Recording 1.json"]
    assert git(remote, "ls-tree", "-r", "--name-only", NAME).splitlines() == [
        "README.md",
        "a-machine/1.json",
        "a-machine/2.json",
    ]
    assert git(remote, "log", "--format=%s", "main").splitlines() == ["two", "one"]


def test_without_a_remote_the_local_branch_is_written(tmp_path):
    git(tmp_path, "init", "-q", "-b", "main")
    committed(tmp_path)
    assert names(tmp_path) == []
    commit = add(tmp_path, "1.json")
    assert git(tmp_path, "rev-parse", NAME) == commit
    assert names(tmp_path) == ["1.json"]
    assert git(tmp_path, "status", "--porcelain") == ""
    assert git(tmp_path, "rev-parse", "--abbrev-ref", "HEAD") == "main"
    git(tmp_path, "checkout", "-q", NAME)
    with opened(NAME, repository=tmp_path) as place, pytest.raises(UserError, match="mvc-baselines is checked out"):
        place.require_writable()


def test_a_local_branch_is_published_once_there_is_a_remote(clone, remote):
    checkout = clone("a")
    git(checkout, "remote", "rename", "origin", "elsewhere")
    add(checkout, "1.json")
    git(checkout, "remote", "rename", "elsewhere", "origin")
    add(checkout, "2.json")
    assert names(checkout) == ["1.json", "2.json"]
    assert git(remote, "rev-list", "--count", NAME) == "2"


def test_deleted_files_go_and_what_others_added_meanwhile_stays(clone):
    one, two = clone("one"), clone("two")
    add(one, "1.json")
    add(one, "2.json")
    with opened(NAME, repository=one) as place:
        (place.folder / "a-machine" / "1.json").unlink()
        (place.folder / "a-machine" / "3.json").write_text("mine")
        add(two, "3.json", "theirs")
        place.save("Thinned")
        assert place.save("Nothing") is None
    assert names(two) == ["2.json", "3-2.json", "3.json"]


def _jobs(repository, job):
    for number in range(3):
        add(repository, f"{job}-{number}.json")


def test_jobs_that_push_at_once_lose_nothing(clone, remote):
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_jobs, args=(clone(f"job{job}"), job)) for job in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert names(clone("after")) == [f"{job}-{number}.json" for job in range(3) for number in range(3)]
    assert git(remote, "rev-list", "--count", NAME) == "9", "one line of commits"


@pytest.mark.parametrize(
    ("complaint", "remedy"),
    [
        ("remote: Permission to a/b.git denied to github-actions[bot].", "permissions: contents: write"),
        ("The requested URL returned error: 403", "permissions: contents: write"),
        ("remote: error: GH006: Protected branch update failed", "no rule may protect"),
        ("fatal: could not read Username for 'https://github.com'", "persist-credentials"),
        ("fatal: unable to access: Could not resolve host", "Could not resolve host"),
    ],
)
def test_a_push_that_is_refused_is_known_before_measuring(complaint, remedy, clone, monkeypatch):
    def refuse(*arguments, **options):
        if arguments[0] == "push":
            raise branch.GitError(f"git push failed: {complaint}")
        return real(*arguments, **options)

    checkout, real = clone("a"), branch.git
    monkeypatch.setattr(branch, "git", refuse)
    with opened(NAME, repository=checkout) as place, pytest.raises(UserError, match=remedy):
        place.require_writable()


def test_a_push_that_is_allowed_writes_nothing_yet(clone, remote):
    for _ in range(2):
        with opened(NAME, repository=clone(f"n{len(list(remote.parent.iterdir()))}")) as place:
            place.require_writable()
    assert git(remote, "branch", "--list", NAME) == ""


def test_a_refusal_that_lasts_is_raised(clone, remote):
    hook = remote / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(UserError, match="cannot push the branch mvc-baselines of origin"):
        add(clone("a"), "1.json")


def test_an_address_may_be_relative_and_the_command_run_in_a_folder_below(clone, remote):
    checkout = clone("a")
    git(checkout, "remote", "set-url", "origin", "../remote.git")
    (checkout / "below").mkdir()
    add(checkout / "below", "1.json")
    assert names(clone("b")) == ["1.json"]


def test_a_push_whose_answer_was_lost_is_not_repeated(clone, remote, monkeypatch):
    def lose(*arguments, **options):
        answer = real(*arguments, **options)
        if arguments[0] == "push":
            raise branch.GitError("the remote end hung up unexpectedly")
        return answer

    real = branch.git
    monkeypatch.setattr(branch, "git", lose)
    assert add(clone("a"), "1.json") == git(remote, "rev-parse", NAME)
    assert git(remote, "rev-list", "--count", NAME) == "1"


def test_the_repositorys_hooks_do_not_run(clone):
    checkout = clone("a")
    for name in ("pre-push", "reference-transaction", "post-checkout"):
        hook = Path(checkout / ".git" / "hooks" / name)
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    assert add(checkout, "1.json")


@pytest.mark.parametrize("name", ["main", "a..b", "-x", ""])
def test_a_branch_of_sources_or_no_name_is_refused(name, clone):
    with pytest.raises(UserError, match=r"holds code.py, which is no recording|is no name of a branch"):
        opened(name, repository=clone("a")).__enter__()


def test_without_an_identity_commits_have_the_commands(clone, monkeypatch, remote):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{role}_NAME")
        monkeypatch.delenv(f"GIT_{role}_EMAIL")
    for key, value in (("GLOBAL", "/dev/null"), ("SYSTEM", "/dev/null")):
        monkeypatch.setenv(f"GIT_CONFIG_{key}", value)
    checkout = clone("a")
    git(checkout, "config", "user.useConfigOnly", "true")
    add(checkout, "1.json")
    assert git(remote, "log", "--format=%an %ae %cn", NAME) == "mvc.regress mvc.regress@localhost mvc.regress"
