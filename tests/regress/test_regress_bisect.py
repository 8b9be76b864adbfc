"""The search for the first slow commit, with a made-up judge."""

import math

import pytest
from git_repository import Repository, run

from mvc.errors import UserError
from mvc.progress import Progress
from mvc.regress import bisect

QUIET = Progress(quiet=True)


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "repository")


def judged(repository, history, slow, broken=(), **options):
    """The suspects, and the commits that were tried, where `slow` and all later ones are slow."""
    tried = []

    def judge(commit):
        tried.append(commit)
        if commit in broken:
            return "skip"
        ancestors = repository.git("rev-list", commit).splitlines()
        return "bad" if slow in ancestors else "good"

    found = bisect.search(repository.folder, history[0], history[-1], judge, QUIET, **options)
    assert len(set(tried)) == len(tried)
    assert not {history[0], history[-1]} & set(tried), "their answers are known"
    return found, tried


def test_every_first_slow_commit_is_found_in_few_steps(repository):
    history = [repository.commit(message=f"{i}") for i in range(12)]
    before = repository.git("status", "--porcelain=v2", "--branch"), sorted((repository.folder / ".git").rglob("*"))
    for slow in history[1:]:
        found, tried = judged(repository, history, slow)
        assert found == [slow]
        assert len(tried) <= math.ceil(math.log2(len(history)))
    assert (
        repository.git("status", "--porcelain=v2", "--branch"),
        sorted((repository.folder / ".git").rglob("*")),
    ) == before


def test_commits_that_cannot_be_measured_are_skipped(repository):
    history = [repository.commit(message=f"{i}") for i in range(20)]
    assert judged(repository, history, history[14], broken=history[4:12])[0] == [history[14]]
    assert judged(repository, history, history[3], broken=history[4:12])[0] == [history[3]]
    found, tried = judged(repository, history, history[9], broken=history[8:11])
    assert found == history[8:12], "any of them, the oldest first"
    assert set(history[8:11]) <= set(tried)


def test_nothing_but_what_cannot_be_measured_is_left(repository):
    history = [repository.commit(message=f"{i}") for i in range(4)]
    assert judged(repository, history, history[1], broken=history[1:3])[0] == history[1:]


def merged(repository):
    """A branch whose second commit is slow, merged into main; the history of main, and the slow commit."""
    history = [repository.commit(message=f"{i}") for i in range(3)]
    repository.git("checkout", "--quiet", "-b", "side", history[1])
    _, slow, _ = [repository.commit(message=f"side {i}") for i in range(3)]
    repository.git("checkout", "--quiet", "main")
    repository.git("merge", "--quiet", "--no-ff", "--message=merge", "side")
    history += [repository.git("rev-parse", "HEAD"), repository.commit(message="4")]
    return history, slow


def test_a_commit_of_a_merged_branch_is_found_or_the_merge(repository):
    history, slow = merged(repository)
    assert judged(repository, history, slow)[0] == [slow]
    assert judged(repository, history, slow, first_parent=True)[0] == [history[3]]


def test_ends_that_no_search_lies_between_are_refused(repository, tmp_path):
    history, slow = merged(repository)
    with pytest.raises(UserError, match=f"GOOD and BAD are both {slow[:12]}"):
        judged(repository, [slow, slow], slow)
    with pytest.raises(UserError, match=f"GOOD {slow[:12]} is no ancestor of BAD; name {history[1][:12]}, where they"):
        judged(repository, [slow, history[2]], slow)
    shallow = tmp_path / "shallow"
    run("git", "clone", "--quiet", "--depth=1", f"file://{repository.folder}", shallow, cwd=tmp_path)
    run("git", "fetch", "--quiet", "--depth=1", "origin", history[1], cwd=shallow)
    with pytest.raises(UserError, match="is no ancestor of BAD; this clone is shallow"):
        bisect.search(shallow, history[1], history[-1], lambda commit: "good", QUIET)


def test_progress_says_what_is_tried_and_how_much_is_left(repository, capsys):
    history = [repository.commit(message=f"change {i}") for i in range(5)]
    bisect.search(repository.folder, history[0], history[-1], lambda commit: "bad", Progress(quiet=False))
    said = capsys.readouterr().err
    assert f"one of 4 commits is the first slow one, about 2 to try: {history[2][:12]} change 2 (tests, " in said
    assert f"{history[2][:12]}: slower" in said
