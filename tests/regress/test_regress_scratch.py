"""The folder of a run and its turn on the device, with processes that are killed."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from git_repository import Repository
from places import ROOT

from mvc.errors import UserError
from mvc.progress import Progress
from mvc.regress.sources import scratch
from mvc.regress.sources.scratch import Scratch, device_lock, prune_work_trees

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)
# A run that goes on until it is killed; it prints the folder that it has.
RUN = """
import sys, time, torch
from mvc.progress import Progress
from mvc.regress.sources.scratch import Scratch, device_lock
with Scratch() as scratch, device_lock(torch.device("cpu"), Progress(quiet=True)):
    (scratch.folder() / "file").write_text("")
    print(scratch.path, flush=True)
    time.sleep(600)
"""
# Runs that start and end while others do, each of which must keep its folder.
MANY = """
from mvc.regress.sources.scratch import Scratch
for _ in range(60):
    with Scratch() as scratch:
        for _ in range(3):
            (scratch.folder() / "file").write_text("")
        assert len(list(scratch.path.iterdir())) == 3
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(scratch.tempfile, "tempdir", None)
    return folder


def start(program):
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def run():
    """A run that is alive: its process and its folder."""
    process = start(RUN)
    path = Path(process.stdout.readline().strip())
    yield process, path
    process.kill()
    process.communicate()


def test_the_folder_goes_with_the_block(temporary):
    with Scratch() as made:
        assert made.path.parent == temporary
        assert made.folder() != made.folder()
    assert list(temporary.iterdir()) == []


def test_what_a_killed_run_left_goes_and_a_living_one_keeps_its_own(run, temporary):
    process, path = run
    (temporary / "mvc-regress-of-an-older-gate").mkdir()
    with Scratch() as ours:
        assert list(path.rglob("file")), "its run is alive"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Scratch() as ours:
        assert not path.exists()
        assert ours.path.is_dir()
    left = {each.name for each in temporary.iterdir()}
    assert left == {"mvc-regress-of-an-older-gate", "mvc-regress-cpu.lock"}
    with device_lock(CPU, QUIET, wait=False):
        pass
    assert {each.name for each in temporary.iterdir()} == {"mvc-regress-of-an-older-gate"}


def test_runs_that_start_and_end_together_keep_their_folders(temporary):
    processes = [start(MANY) for _ in range(3)]
    for process in processes:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    assert list(temporary.iterdir()) == []


def test_a_folder_that_another_run_removes_before_it_is_locked_is_made_anew(monkeypatch):
    lock, seen = scratch._lock, []

    def removed_once(path, **options):
        if not seen:
            seen.append(path)
            scratch._remove_dead()
        return lock(path, **options)

    monkeypatch.setattr(scratch, "_lock", removed_once)
    monkeypatch.setattr(scratch, "_remove_dead", lambda: seen and os.rmdir(seen[0]))
    with Scratch() as made:
        assert not seen[0].exists()
        assert made.path.is_dir()


def test_a_second_run_is_told_who_measures(run):
    with pytest.raises(UserError, match=f"process {run[0].pid} measures on cpu already"):
        device_lock(CPU, QUIET, wait=False).__enter__()


def test_a_second_run_waits_and_says_so(run, capsys):
    process, _ = run
    threading.Timer(0.5, process.kill).start()
    with device_lock(CPU, Progress(quiet=False)):
        assert process.wait() == -signal.SIGKILL
    assert f"waiting: process {process.pid} measures on cpu ..." in capsys.readouterr().err


def test_other_devices_do_not_wait(run, monkeypatch):
    properties = {0: "aaaa", 1: "bbbb"}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: type("P", (), {"uuid": properties[device.index]})
    )
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    with device_lock(first, QUIET, wait=False), device_lock(second, QUIET, wait=False):
        properties[1] = "aaaa"
        with pytest.raises(UserError, match=f"process {os.getpid()} measures on cuda:1 already"):
            device_lock(second, QUIET, wait=False).__enter__()


def test_the_lock_of_a_device_is_for_all_users(temporary):
    before = os.umask(0o077)
    try:
        with device_lock(CPU, QUIET):
            (file,) = temporary.iterdir()
            assert file.stat().st_mode & 0o777 == 0o666
            assert file.read_text() == str(os.getpid())
    finally:
        os.umask(before)


def test_a_link_in_the_place_of_the_lock_is_not_followed(temporary):
    (temporary / "file").write_text("mine")
    (temporary / "mvc-regress-cpu.lock").symlink_to(temporary / "file")
    with pytest.raises(UserError, match=r"cannot be opened .*; remove it, or set TMPDIR"):
        device_lock(CPU, QUIET).__enter__()
    assert (temporary / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_told(monkeypatch):
    def refuse(prefix):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match=r"no temporary folder can be made .*No space left.*; free some space"):
        Scratch().__enter__()


def test_links_and_files_with_such_a_name_stay(temporary):
    (temporary / "kept").mkdir()
    (temporary / f"{scratch.FOLDERS}link").symlink_to(temporary / "kept")
    (temporary / f"{scratch.FOLDERS}file").write_text("")
    with Scratch():
        pass
    assert {each.name for each in temporary.iterdir()} == {
        "kept", f"{scratch.FOLDERS}link", f"{scratch.FOLDERS}file"
    }  # fmt: skip


def test_a_disk_without_locks_is_told(monkeypatch):
    def refuse(file, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(scratch.fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"cannot be locked \(No locks available\); set TMPDIR"):
        Scratch().__enter__()


def test_a_system_without_locks_removes_nothing_and_says_so(monkeypatch, temporary, capsys):
    monkeypatch.setattr(scratch, "fcntl", None)
    (temporary / f"{scratch.FOLDERS}x").mkdir()
    with Scratch() as made, device_lock(CPU, Progress(quiet=False)):
        assert made.path.is_dir()
    assert [each.name for each in temporary.iterdir()] == [f"{scratch.FOLDERS}x"]
    assert "no locks of files" in capsys.readouterr().err


def test_work_trees_of_older_gates_are_unregistered_and_nobody_elses(temporary):
    repository = Repository(temporary / "repository")
    repository.commit()
    trees = {name: temporary / name / "tree" for name in ("mvc-regress-a", "mvc-regress-b", "mvc-regress-c", "other")}
    for tree in trees.values():
        tree.parent.mkdir()
        repository.git("worktree", "add", "--quiet", "--detach", tree)
    repository.git("worktree", "lock", trees["mvc-regress-b"])  # as one is that was killed in `git worktree add`
    for name in ("mvc-regress-a", "mvc-regress-b", "other"):
        trees[name].rename(temporary / f"moved-{name}")
    prune_work_trees(repository.folder)
    listed = repository.git("worktree", "list")
    assert [name for name, tree in trees.items() if str(tree) in listed] == ["mvc-regress-c", "other"]
