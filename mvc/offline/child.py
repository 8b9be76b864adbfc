"""Child processes in sessions of their own, which end as a whole, with one line on what went wrong."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

WHY = "mvc: failed: "  # marks the line of `serve` among what libraries print
# Prefixes of variables that may change generated code.
CHANGE_CODE = ("TORCH", "PYTORCH_", "INDUCTOR_", "TRITON_", "PTXAS_", "DISABLE_PTXAS_")
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def run(
    command: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in a session of its own, without input; its output is captured.

    However this ends, by an interrupt too, all processes of the session are killed: compilers that the command started
    would go on writing to a folder that is being removed.

    Args:
        timeout: seconds.
        env: variables of its environment, by default this process's.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=env, text=True, start_new_session=True, **pipes) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            kill_session(process)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def kill_session(leader: subprocess.Popen) -> None:
    """Kill a process that leads a session of its own, and all others of it. Where there are no sessions, it alone."""
    if not hasattr(os, "killpg"):
        leader.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # ended, or already another's number
        os.killpg(leader.pid, signal.SIGKILL)


def environment(scratch: Path) -> dict[str, str]:
    """This process's variables without those that may change generated code, and with private caches.

    Args:
        scratch: a folder for caches and temporary files.
    """
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(CHANGE_CODE)},
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TMPDIR": str(scratch),
    }


def serve(main: Callable[[Sequence[str]], None]) -> None:
    """Run as a child process: call `main` with the command's arguments, and say in the last line why it failed.

    This process ends when its parent is killed, which can then not end the session.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        main(sys.argv[1:])
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"{WHY}{type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    """The first line of the error's message that is not merely a heading such as "backend='f' raised:"."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if not line.endswith(":")), lines[0])


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process failed, in one line: the one that `serve` wrote, or else the last one printed."""
    if done.returncode < 0:
        return f"it was ended by {signal.Signals(-done.returncode).name}"
    lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    return next((line.removeprefix(WHY) for line in reversed(lines) if line.startswith(WHY)), lines[-1])
