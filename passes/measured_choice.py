"""Which of several calls is the fastest here: measured once for each shape, kept in a file.

The file lies in the folder of `mvc.kernels.cache`, one for each torch and GPU, or vector width of the processor, where
the number of threads is part of the key. On a GPU it is for the sources of mvc as well: a choice names one of their
tiles, and was made between their kernels. A file that cannot be read counts as empty.

On a GPU a call is timed as the device's time in a replayed CUDA graph of many calls: launches from Python would hide
what a short kernel takes.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.kernels import cache
from mvc.passes import torch_private
from mvc.passes.base import shared_sources

MARGIN = 0.03  # a call that is less than this share faster than one before it is not chosen
ROUNDS = 15
CLEAR_ROUNDS = 3  # enough where all of them agree, or time is up
SECONDS = 0.3
SECONDS_PER_TURN = 0.002
MOST_CALLS = 64  # in one CUDA graph
MOST_INPUTS = 16  # sets of inputs in turn

# What runs a call on a GPU: the library or a Triton kernel of mvc, whichever is measured to be faster, or always one.
Kernels = Literal["measured", "library", "own"]

# Activations that write over what they read: as many bytes as a loop of Inductor's behind a library call moves.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": torch.relu_,
    "silu": lambda y: F.silu(y, inplace=True),
    "gelu": torch.ops.aten.gelu_,
    "gelu_tanh": lambda y: torch.ops.aten.gelu_(y, approximate="tanh"),
}

T = TypeVar("T")
Runs = Mapping[str, Callable[[], object]]
Clocks = Mapping[str, Callable[[], float]]  # the seconds that one call takes, measured anew
CPU = torch.device("cpu")


def fastest(key: str, build: Callable[[], Runs], device: torch.device = CPU) -> str:
    """The name of the fastest of the calls that `build` returns; an earlier one unless a later one is clearly faster.

    On a GPU a call that raises is left out with a warning, and the answer is then not written to the file. If it is the
    first call that raises, or `build`, or if torch sees no such device, as where tensors are fakes, the answer is
    "library".

    Args:
        key: what the measurement depends on, the device and the number of threads excepted.
        build: called only when there is no answer yet. Every call must do the same work; on a GPU the first is that
            of the library, and `rotated` makes their inputs.
    """
    on_cpu = device.type == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        return "library"
    key = f"{key} threads={torch.get_num_threads()}" if on_cpu else key
    machine = torch.backends.cpu.get_cpu_capability() if on_cpu else f"{_gpu(device)}-{shared_sources().hex()[:16]}"
    name = f"library-choice-{torch.__version__}-{machine}.json"
    known = _read(name)
    if key not in known:
        known[key], whole = measure(build, device)
        if whole:
            _write(name, {key: known[key]})
    return known[key]


def known() -> dict[str, dict[str, str]]:
    """What this process knows, by the name of the file that holds it."""
    return {place.name: choices for place, choices in _known.items() if choices}


def adopt(name: str, choices: Mapping[str, str]) -> None:
    """Take over what another process on a machine of the same kind knows.

    In this process these choices count, so that it makes the other's graphs; in the file, those that were there do.
    """
    known = _read(name)
    if new := {key: choice for key, choice in choices.items() if key not in known}:
        _write(name, new)
    known.update(choices)


def measure(build: Callable[[], Runs], device: torch.device) -> tuple[str, bool]:
    """The name of the fastest call, timed now, and whether every call could be timed."""
    with torch.no_grad():
        clocks, whole = (_cpu_clocks(build()), True) if device.type == "cpu" else _gpu_clocks(build, device)
        return _best(clocks) if clocks else "library", whole


def rotated(make: Callable[[], Sequence[Tensor | None]], device: torch.device) -> Iterator[Sequence[Tensor | None]]:
    """Sets of inputs in turn, without end: as many as a GPU's second-level cache does not hold, within limits."""
    first = make()
    size = sum(each.nbytes for each in first if each is not None)
    cached = torch.cuda.get_device_properties(device).L2_cache_size
    sets = min(MOST_INPUTS, 1 + 2 * cached // max(size, 1))
    return itertools.cycle([first, *(make() for _ in range(sets - 1))])


def _gpu(device: torch.device) -> str:
    """The GPU's model and architecture, as part of a file's name."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name(device)).strip("-")
    return "{}-sm_{}{}".format(name, *torch.cuda.get_device_capability(device))


def _best(clocks: Clocks) -> str:
    """Interleaved turns of every call, compared by the best of each: what else the machine does only adds time."""
    first, *others = clocks
    rounds: list[dict[str, float]] = []
    start = time.perf_counter()
    for turn in range(1, ROUNDS + 1):
        rounds.append({name: clock() for name, clock in clocks.items()})
        if turn >= CLEAR_ROUNDS and (_is_clear(rounds) or time.perf_counter() - start > SECONDS):
            break
    times = {name: min(turn[name] for turn in rounds) for name in clocks}
    best = first
    for name in others:
        if times[name] < (1 - MARGIN) * times[best]:
            best = name
    return best


def _is_clear(rounds: list[dict[str, float]]) -> bool:
    """Whether one call was the fastest in every round, by the margin."""
    names = {min(turn, key=turn.__getitem__) for turn in rounds}
    best = next(iter(names))
    others = [name for name in rounds[0] if name != best]
    return len(names) == 1 and all(turn[best] < (1 - MARGIN) * turn[name] for turn in rounds for name in others)


def _cpu_clocks(runs: Runs) -> Clocks:
    for run in runs.values():
        run()
    repeats = {name: max(1, int(SECONDS_PER_TURN / _seconds(run, 1))) for name, run in runs.items()}
    return {name: partial(_seconds, run, repeats[name]) for name, run in runs.items()}


def _seconds(run: Callable[[], object], repeats: int) -> float:
    if repeats > 1:
        run()  # another call's data left the cache
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def _gpu_clocks(build: Callable[[], Runs], device: torch.device) -> tuple[Clocks, bool]:
    """The clocks of the calls that can run, none where the first cannot; and whether all can."""
    clocks: dict[str, Callable[[], float]] = {}
    with torch.cuda.device(device):
        if (runs := _tried("every call", build, device)) is None:
            return clocks, False
        for name, run in runs.items():
            clock = _tried(repr(name), partial(_replay_clock, run, device), device)
            if clock is not None:
                clocks[name] = clock
            elif not clocks:
                return clocks, False
    return clocks, len(clocks) == len(runs)


def _tried(what: str, make: Callable[[], T], device: torch.device) -> T | None:
    """What `make` returns; None where it raises: a kernel that the card does not take, too little memory."""
    try:
        return make()
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        _warn_once(f"{what} is left out of a measured choice on {device}: {reason}")
        return None


def _replay_clock(run: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """The clock of a call whose CUDA graph holds about `SECONDS_PER_TURN` of it."""
    beside, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    beside.wait_stream(current)
    with torch.cuda.stream(beside):  # what is made on first use cannot be made during a capture
        run()
        once = _elapsed(run)
    current.wait_stream(beside)
    calls = max(1, min(MOST_CALLS, int(SECONDS_PER_TURN / max(once, 1e-6))))
    replay = torch_private.captured(lambda: _repeat(run, calls), device)

    def seconds() -> float:
        replay()  # keeps the device busy until the timed one has been launched
        return _elapsed(replay) / calls

    return seconds


def _repeat(run: Callable[[], object], times: int) -> None:
    for _ in range(times):
        run()


def _elapsed(run: Callable[[], object]) -> float:
    """Seconds between device events around the call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


_known: dict[Path, dict[str, str]] = {}


def _read(name: str) -> dict[str, str]:
    """What this process knows of the files of that name, read when first asked; the shared one's choices count."""
    place = cache.folder() / name
    if place not in _known:
        _known[place] = {}
        for path in reversed([*cache.find(name)]):
            _known[place] |= _load(path)
    return _known[place]


def _load(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        _warn_once(f"{path} cannot be read ({error}); library calls are measured again")
        return {}
    if not (isinstance(content, dict) and all(isinstance(choice, str) for choice in content.values())):
        _warn_once(f"{path} is damaged; library calls are measured again")
        return {}
    return content


def _write(name: str, choices: Mapping[str, str]) -> None:
    """Add choices to the file; other processes may do the same meanwhile, or be killed."""

    def add(path: Path) -> None:
        cache.replace_text(path, json.dumps({**_load(path), **choices}, indent=1, sort_keys=True))

    try:
        cache.update(name, add)
    except OSError as error:
        _warn_once(f"{name} cannot be written ({error}); library calls are measured in each process; set MVC_CACHE_DIR")


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)
