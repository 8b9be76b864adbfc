"""Which of several library calls is the fastest here: measured once for each shape, kept in a file.

The file lies in the folder of `mvc.kernels.cache`, one for each torch and vector width of the processor; the number of
threads is part of the key. A file that cannot be read counts as empty.
"""

from __future__ import annotations

import functools
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch

from mvc.kernels import cache

MARGIN = 0.03  # a call that is less than this share faster than one before it is not chosen
ROUNDS = 15
CLEAR_ROUNDS = 3  # enough where all of them agree, or time is up
SECONDS = 0.3
SECONDS_PER_TURN = 0.002

# What runs a call on a GPU: the library or a Triton kernel of mvc, whichever is measured to be faster, or always one.
Kernels = Literal["measured", "library", "own"]

Runs = Mapping[str, Callable[[], object]]


def fastest(key: str, build: Callable[[], Runs]) -> str:
    """The name of the fastest of the calls that `build` returns; an earlier one unless a later one is clearly faster.

    Args:
        key: what the measurement depends on, the number of threads excepted.
        build: called only when there is no answer yet. Every call must do the same work.
    """
    key = f"{key} threads={torch.get_num_threads()}"
    machine = f"{torch.__version__}-{torch.backends.cpu.get_cpu_capability()}"
    name = f"library-choice-{machine}.json"
    known = _read(name)
    if key not in known:
        known[key] = _measure(build())
        _write(name, key, known[key])
    return known[key]


def _measure(runs: Runs) -> str:
    """Interleaved turns of every call, compared by the best of each: what else the machine does only adds time."""
    first, *others = runs
    rounds: list[dict[str, float]] = []
    with torch.no_grad():
        for run in runs.values():
            run()
        start = time.perf_counter()
        repeats = {name: max(1, int(SECONDS_PER_TURN / _seconds(run, 1))) for name, run in runs.items()}
        for turn in range(1, ROUNDS + 1):
            rounds.append({name: _seconds(run, repeats[name]) for name, run in runs.items()})
            if turn >= CLEAR_ROUNDS and (_is_clear(rounds) or time.perf_counter() - start > SECONDS):
                break
    times = {name: min(turn[name] for turn in rounds) for name in runs}
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


def _seconds(run: Callable[[], object], repeats: int) -> float:
    if repeats > 1:
        run()  # another call's data left the cache
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


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


def _write(name: str, key: str, choice: str) -> None:
    """Add one choice to the file; other processes may do the same meanwhile, or be killed."""

    def add(path: Path) -> None:
        cache.replace_text(path, json.dumps({**_load(path), key: choice}, indent=1, sort_keys=True))

    try:
        cache.update(name, add)
    except OSError as error:
        _warn_once(f"{name} cannot be written ({error}); library calls are measured in each process; set MVC_CACHE_DIR")


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=2)
