"""Child processes: nothing of them is left, and what went wrong is one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvc.offline import child

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sessions and prctl as on Linux")

# Starts a process of its own and writes both numbers.
STARTS = """
import os, subprocess, sys, time
started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), started.pid, file=open(sys.argv[1] + ".part", "w"), flush=True)
os.rename(sys.argv[1] + ".part", sys.argv[1])
"""
SERVES = "import sys; from mvc.offline import child; child.serve(lambda arguments: exec(sys.argv[2]))"


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def numbers(path):
    wait_for(path.exists)
    return [int(number) for number in path.read_text().split()]


def test_what_a_process_started_ends_with_a_time_out(tmp_path):
    command = [sys.executable, "-c", f"{STARTS}\ntime.sleep(600)", str(tmp_path / "numbers")]
    with pytest.raises(subprocess.TimeoutExpired):
        child.run(command, timeout=4)
    for number in numbers(tmp_path / "numbers"):
        wait_for(lambda number=number: ended(number))


def test_what_a_process_started_ends_with_it(tmp_path):
    code = STARTS.replace('(600)"]', '(600)"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL')
    done = child.run([sys.executable, "-c", code, str(tmp_path / "numbers")], timeout=60)
    assert done.returncode == 0, done.stderr
    for number in numbers(tmp_path / "numbers"):
        wait_for(lambda number=number: ended(number))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_child_ends_with_its_parent(number, tmp_path):
    command = [sys.executable, "-c", SERVES, str(tmp_path / "numbers"), f"{STARTS}\ntime.sleep(600)"]
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"from mvc.offline import child; child.run({command!r}, timeout=600)"
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    served, started = numbers(tmp_path / "numbers")
    parent.send_signal(number)
    parent.wait()
    wait_for(lambda: ended(served))
    if number == signal.SIGINT:
        wait_for(lambda: ended(started))
    elif not ended(started):
        os.kill(started, signal.SIGKILL)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("raise ValueError('one line')", "ValueError: one line"),
        ("raise ValueError(\"backend='f' raised:\\nKeyError: 3\\n\\nSet VERBOSE=1\")", "ValueError: KeyError: 3"),
        ("raise ValueError", "ValueError: no message"),
        ("import atexit; atexit.register(print, 'bye', file=sys.stderr); raise KeyError(1)", "KeyError: 1"),
        ("import os; print('last', file=sys.stderr); os._exit(3)", "last"),
        ("import os; os._exit(3)", "status 3"),
        ("import os; os.kill(os.getpid(), 9)", "it was ended by SIGKILL"),
    ],
)
def test_why_it_failed_is_one_line(code, line):
    done = child.run([sys.executable, "-c", SERVES, "", code], timeout=60)
    assert child.reason(done) == line


def test_variables_that_change_code_do_not_get_through(monkeypatch, tmp_path):
    for name in ("TORCHINDUCTOR_MAX_AUTOTUNE", "TORCH_COMPILE_DEBUG", "TORCH_LOGS", "TORCHDYNAMO_DISABLE", "TRITON_X"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("UNRELATED", "kept")
    seen = child.environment(tmp_path)
    assert seen["UNRELATED"] == "kept"
    ours = {name: value for name, value in seen.items() if name.startswith(("TORCH", "TRITON"))}
    assert ours == {"TRITON_CACHE_DIR": f"{tmp_path}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{tmp_path}/inductor"}
