"""The cases to measure and the smallest effects that count as a change, read from a TOML file."""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvc.compile.backend import MODES
from mvc.errors import UserError
from mvc.regress import toml

# In a wheel, and in a checkout.
FOLDERS = (Path(__file__).parents[1] / "cases", Path(__file__).parents[2] / "bench" / "cases")
RECORDED = "recorded"  # the kind of a case that another tool has measured, and that cannot be run
DEFAULT_FILES = {"cpu": "default.toml", "cuda": "gpu.toml"}

SCANS = ("cpp", "triton", "chunked")  # of mvc.kernels.implementations.TABLE; the reference runs without being seen
FASTEST = {"cpu": "cpp", "cuda": "triton"}
COMPILE_OPTIONS = ("backend", "mode", "dynamic", "fullgraph")  # of torch.compile
EXACT = ("graph breaks", "recompiles", "launches", "peak bytes")  # what is compared exactly of a called function
CALL = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
# By kind, what a cases file may say of a case besides its thresholds.
FIELDS = {
    "model": ("variant", "size", "backend", "mode", "training", "frozen", "batch", "dtype", "device", "scan"),
    "scan": ("training", "batch", "dtype", "device", "dim", "length", "states", "scan"),
    "call": ("call", "arguments", "compile", "backward", "inputs", "exact", "device", "scan"),
}


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """The smallest effects that count as a change, and how much is measured to see them.

    Attributes:
        effect: for times, on CUDA the device's: 0.05 calls nothing below 5 % a regression.
        call_effect: for the times of calls, a second figure on CUDA.
        compile_effect: for compile times, of which each process has one; None does not judge them.
        memory_effect: for the peak of a process's memory, of which each has one figure; None does not judge it.
        confidence: of the interval that decides, from 0 to 1.
        rounds: the least and the most timed rounds of one run; each round times both sides once.
    """

    effect: float = 0.05
    call_effect: float = 0.10
    compile_effect: float | None = None
    memory_effect: float | None = None
    confidence: float = 0.95
    rounds: tuple[int, int] = (20, 60)

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("effect", "call_effect", "compile_effect", "memory_effect"):
            if (value := getattr(self, name)) is not None and not 0 < value < 1:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must lie between 0 and 1")
        if not 0.5 <= self.confidence < 1:
            raise UserError(f"confidence is {self.confidence!r}; it must be at least 0.5 and below 1")
        least, most = self.rounds
        if not 5 <= least <= most:  # fewer have no interval to speak of
            raise UserError(f"rounds is {list(self.rounds)}; it must be [least, most], with 5 <= least <= most")

    @property
    def effects(self) -> dict[str, float]:
        """The effects by what is judged."""
        effects = {
            "time": self.effect,
            "call time": self.call_effect,
            "compile time": self.compile_effect,
            "peak memory": self.memory_effect,
        }
        return {name: effect for name, effect in effects.items() if effect is not None}

    def limited(self, most: int) -> Thresholds:
        """The same with at most so many rounds of a run."""
        return dataclasses.replace(self, rounds=(min(self.rounds[0], most), most))


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing that is timed: a model's forward pass or training step, the scan, or a call of anyone's function.

    Attributes:
        name: the case's name in results and for `--only`.
        kind: "model", "scan" or "call"; `FIELDS` has the fields of each.
        variant, size: of a model; a size of None is the variant's own.
        backend: of a model: "mvc", "inductor" or "eager".
        mode: Inductor's mode, for a compiled model.
        training: whether a backward is run too.
        frozen: the option of the backend "mvc", in inference.
        batch, dtype: of the input.
        device: "cpu" or "cuda"; a called function gets it as `device` if it has a parameter of that name.
        dim, length, states: of the scan's input, (batch, length, dim) with that many states.
        call: "package.module:function"; the function returns a callable and a tuple of its arguments, or yields them
            once, with what is to be done afterwards behind the `yield`.
        arguments: keyword arguments of that function.
        compile: whether the callable goes through `torch.compile`, or its `COMPILE_OPTIONS`.
        backward: whether a backward of the sum of the callable's floating outputs is run too.
        inputs: how often the function is asked, each time with another seed; calls rotate over the argument sets.
        exact: which of `EXACT` are compared; None compares all that the case has: launches where it is compiled, the
            peak of the memory of tensors on CUDA.
        scan: the implementation of the scan that must run. None stands for the fastest of the device, and where a
            function is called for any.
    """

    name: str
    kind: str = "model"
    variant: str = "T"
    size: int | None = None
    backend: str = "mvc"
    mode: str = "default"
    training: bool = False
    frozen: bool = False
    batch: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    dim: int = 160
    length: int = 196
    states: int = 8
    call: str | None = None
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    compile: bool | dict[str, Any] = False
    backward: bool = False
    inputs: int = 1
    exact: tuple[str, ...] | None = None
    scan: str | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        allowed = {
            "kind": (*FIELDS, RECORDED),
            "backend": ("mvc", "inductor", "eager"),
            "mode": MODES,
            "dtype": ("float32", "float16", "bfloat16"),
            "device": tuple(FASTEST),
            "scan": (None, *SCANS),
        }
        for key, values in allowed.items():
            if getattr(self, key) not in values:
                known = " or ".join(each for each in values if each not in (None, RECORDED))
                raise UserError(f"{key} is {getattr(self, key)!r}; it must be {known}")
        for key in ("batch", "dim", "length", "states", "inputs"):
            if getattr(self, key) < 1:
                raise UserError(f"{key} is {getattr(self, key)!r}; it must be at least 1")
        if self.kind == "call" and not CALL.fullmatch(self.call or ""):
            raise UserError(f"call is {self.call!r}; it must be 'package.module:function'")
        chosen = {"compile": self.compile if isinstance(self.compile, dict) else (), "exact": self.exact or ()}
        for key, known in (("compile", COMPILE_OPTIONS), ("exact", EXACT)):
            if unknown := [each for each in chosen[key] if each not in known]:
                raise UserError(f"{key} has {unknown[0]!r}; it may have {', '.join(known)}")
        if "launches" in chosen["exact"] and self.compile is False:
            raise UserError("exact has 'launches', which only what is compiled has; set compile, or leave it out")

    @property
    def has_exact_numbers(self) -> bool:
        """Whether the case has numbers that do not vary from run to run: of compiled code, or the memory of tensors on
        a GPU."""
        if self.kind == "call":
            wanted = EXACT if self.exact is None else self.exact
            return any(name != "peak bytes" or self.device == "cuda" for name in wanted)
        return self.device == "cuda" or (self.kind == "model" and self.backend != "eager")

    @property
    def expected_scan(self) -> str | None:
        """The implementation of the scan that must run, or None where any may."""
        return self.scan or (FASTEST[self.device] if self.kind in ("model", "scan") else None)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Suite:
    """Cases of one device.

    Attributes:
        thresholds: of the cases that have none of their own.
        own: thresholds by the case's name.
        path: the file, absolute.
    """

    cases: tuple[Case, ...]
    thresholds: Thresholds
    own: Mapping[str, Thresholds] = dataclasses.field(default_factory=dict)
    path: Path | None = None

    def __post_init__(self) -> None:
        if recorded := [case.name for case in self.cases if case.kind == RECORDED]:
            raise UserError(f"kind of {recorded[0]} is {RECORDED!r}, which is for recordings of other tools")
        if len(devices := {case.device for case in self.cases}) > 1:
            raise UserError(f"the cases are on {' and '.join(sorted(devices))}; give each device a file of its own")

    def thresholds_of(self, case: Case) -> Thresholds:
        return self.own.get(case.name, self.thresholds)

    def limited(self, rounds: int) -> Suite:
        """The suite with at most so many rounds of a run, whatever the file says."""
        own = {name: each.limited(rounds) for name, each in self.own.items()}
        return dataclasses.replace(self, thresholds=self.thresholds.limited(rounds), own=own)

    def only(self, names: list[str]) -> Suite:
        """The suite with the cases of these names, in the file's order; with all cases where no name is passed."""
        known = {case.name for case in self.cases}
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"--only has {unknown[0]!r}; the cases are {', '.join(sorted(known))}")
        chosen = tuple(case for case in self.cases if not names or case.name in names)
        return dataclasses.replace(self, cases=chosen)


def load(path: str | Path | None = None, *, device: str = "cpu") -> Suite:
    """The cases and thresholds of a TOML file, by default those that come with mvc for a kind of device.

    Raises:
        UserError: a file that cannot be read, is no TOML, or has unknown or wrong keys.
    """
    defaults = (folder / DEFAULT_FILES[device] for folder in FOLDERS)
    chosen = Path(path) if path else next(each for each in defaults if each.is_file())
    try:
        facts = toml.read(chosen)
    except OSError as error:
        raise UserError(f"--cases {chosen} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--cases {chosen} is no TOML file: {error}") from error
    if unknown := facts.keys() - {"thresholds", "cases"}:
        raise UserError(f"{chosen} has {sorted(unknown)[0]!r}; it may hold [thresholds] and [cases.NAME]")
    table = facts.get("cases", {})
    if not isinstance(table, dict) or not table or not all(isinstance(each, dict) for each in table.values()):
        raise UserError(f"{chosen} has no cases; write one as [cases.NAME]")
    shared = _table(facts, "thresholds", str(chosen))
    names = [field.name for field in dataclasses.fields(Thresholds)]
    thresholds = _build(Thresholds, shared, names, f"{chosen}, thresholds")
    cases, own = [], {}
    for name, each in table.items():
        each = {"kind": "call" if "call" in each else "model", **each}
        if changed := _table(each, "thresholds", f"{chosen}, case {name}"):
            own[name] = _build(Thresholds, {**shared, **changed}, names, f"{chosen}, thresholds of case {name}")
        each.pop("thresholds", None)
        known = ["kind", *FIELDS.get(str(each["kind"]), each)]
        cases.append(_build(Case, {**each, "name": name}, ["name", *known], f"{chosen}, case {name}"))
    return Suite(tuple(cases), thresholds, own, chosen.resolve())


def names(path: Path) -> frozenset[str] | None:
    """The names of the cases in a file of any version of the gate; None where there is no such file."""
    try:
        return frozenset(toml.read(path)["cases"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _table(facts: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    if not isinstance(table := facts.get(key, {}), dict):
        raise UserError(f"{where}: {key} is {table!r}; it must be a table")
    return table


def _build(cls: type, facts: Mapping[str, Any], known: Sequence[str], where: str) -> Any:
    if unknown := facts.keys() - known:
        raise UserError(f"{where}: {sorted(unknown)[0]!r} is unknown; known are {', '.join(known)}")
    facts = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    try:
        return cls(**facts)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


_hints = functools.cache(typing.get_type_hints)  # it compiles every annotation anew


def _check_types(facts: Thresholds | Case) -> None:
    """Check every field by its annotation. A whole number may stand for a float."""
    for name, hint in _hints(type(facts)).items():
        if not _fits(value := getattr(facts, name), hint):
            expected = " or ".join(_in_words(each) for each in _choices(hint))
            shown = list(value) if isinstance(value, tuple) else value
            raise UserError(f"{name} is {shown!r}; it must be {expected}")


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of one of the types that annotations here have."""
    for each in _choices(hint):
        kind, members = typing.get_origin(each) or each, typing.get_args(each)
        if type(value) is not kind and not (kind is float and type(value) is int):
            continue
        if kind is not tuple:
            return True
        members = members[:1] * len(value) if Ellipsis in members else members
        return len(value) == len(members) and all(map(_fits, value, members))
    return False


def _in_words(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"[{', '.join('...' if each is Ellipsis else each.__name__ for each in typing.get_args(hint))}]"
    names = {dict: "a table", bool: "true or false", types.NoneType: "left out"}
    return names.get(typing.get_origin(hint) or hint, f"of type {getattr(hint, '__name__', hint)}")
