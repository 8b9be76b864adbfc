"""Measures every case of one version, and keeps the times for later comparisons."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

import mvc
from mvc.measure import nvml
from mvc.measure.environment import environment
from mvc.measure.gpu_processes import other_processes
from mvc.progress import Progress
from mvc.regress import accepted
from mvc.regress.cases import Case, Suite
from mvc.regress.recordings.recording import RecordedCase, Recording
from mvc.regress.run import Rounds, in_turns, shared_clocks
from mvc.regress.sources.git import root
from mvc.regress.sources.scratch import Scratch, device_lock
from mvc.regress.sources.version import Version, checkout, require_own
from mvc.regress.worker import CaseFailed, Side, Worker, require_expected

RUNS = 2  # processes of each case in a recording: a finding must recur in the second
PACKAGE = Path(mvc.__file__).parent


def subject(suite: Suite) -> Version:
    """What is measured where no revision is named: of anyone's functions this checkout, and of mvc's own cases the mvc
    that this command was imported from.

    Raises:
        UserError: this checkout has a copy of mvc that is not the one of the command.
    """
    if any(case.kind == "call" for case in suite.cases):
        return checkout(root(), ".")
    require_own(PACKAGE)
    return checkout(PACKAGE.parent, "installed")


def record(
    suite: Suite,
    version: Version,
    progress: Progress,
    *,
    timeout: float,
    wait: bool = True,
    keep: Callable[[Recording], None] = lambda recording: None,
) -> tuple[Recording, list[str]]:
    """Record every case in fresh processes, each with the most rounds; and say why cases are missing.

    Args:
        version: whose folder is measured.
        timeout: seconds for each answer of a process.
        wait: for another run of the gate on the device; otherwise it is an error.
        keep: called with the recording so far after each case.
    """
    device, obstacles = torch.device(suite.cases[0].device), []
    with Scratch() as scratch, device_lock(device, progress, wait=wait):
        for remark in other_processes(device):
            progress.say(remark)
        recording = Recording(environment(device), version, {}, accepted.read(accepted.path_for(suite.path)))
        for case in suite.cases:
            with progress.step(f"recording {case.name}"):
                try:
                    recording.cases[case.name] = _recorded(case, version, suite, scratch, timeout=timeout)
                except CaseFailed as error:
                    obstacles.append(f"{case.name}: {error}")
                    continue
            keep(recording)
    return recording, obstacles


def _recorded(case: Case, version: Version, suite: Suite, scratch: Scratch, *, timeout: float) -> RecordedCase:
    """Record a case in `RUNS` processes.

    Raises:
        CaseFailed: a process cannot run it, or measures something else than the case names.
    """
    runs, facts, clocks = [], [], {}
    device, rounds = torch.device(case.device), suite.thresholds_of(case).rounds[1]
    side = Side(version.asked, Path(version.folder), scratch.folder())
    for _ in range(RUNS):
        with Worker(case, side, timeout=timeout).wait_until_ready() as worker, nvml.Watch(device) as watch:
            require_expected(case, side.name, worker.facts)
            if shared_clocks([worker]) != (clocks := clocks or shared_clocks([worker])):
                raise CaseFailed("its two processes have different clocks")
            kept = Rounds(in_turns([worker], clocks, seed=0), watch)
            taken = [turn for (turn,) in kept.up_to(rounds)]
            runs.append({name: [turn[name] for turn in taken] for name in clocks})
        gpu = dataclasses.asdict(nvml.summary(watch)) if device.type == "cuda" else None
        facts.append(dataclasses.replace(worker.facts, discarded=kept.discarded, gpu=gpu))
    return RecordedCase(case, clocks, runs, facts)
