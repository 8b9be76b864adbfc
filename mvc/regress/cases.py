"""The cases to measure and the smallest effects that count as a change, read from a TOML file."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvc.compile.backend import MODES
from mvc.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# In a wheel, and in a checkout.
FOLDERS = (Path(__file__).parents[1] / "cases", Path(__file__).parents[2] / "bench" / "cases")
RECORDED = "recorded"  # the kind of a case that another tool has measured, and that cannot be run
DEFAULT_FILES = {"cpu": "default.toml", "cuda": "gpu.toml"}


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """The smallest effects that count as a change, and how much is measured to see them.

    Attributes:
        effect: for times, on CUDA the device's: 0.05 calls nothing below 5 % a regression.
        call_effect: for the times of calls, a second figure on CUDA.
        compile_effect: for compile times, of which each process has one.
        memory_effect: for peak memory, of which each process has one figure.
        confidence: of the interval that decides, from 0 to 1.
        rounds: the least and the most timed rounds of one run; each round times both sides once.
    """

    effect: float = 0.05
    call_effect: float = 0.10
    compile_effect: float = 0.25
    memory_effect: float = 0.10
    confidence: float = 0.95
    rounds: tuple[int, int] = (20, 60)

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("effect", "call_effect", "compile_effect", "memory_effect"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must lie between 0 and 1")
        if not 0.5 <= self.confidence < 1:
            raise UserError(f"confidence is {self.confidence!r}; it must be at least 0.5 and below 1")
        least, most = self.rounds
        if {type(least), type(most)} != {int}:
            raise UserError(f"rounds is {list(self.rounds)}; it must hold whole numbers")
        if not 5 <= least <= most:  # fewer have no interval to speak of
            raise UserError(f"rounds is {list(self.rounds)}; it must be [least, most], with 5 <= least <= most")

    @property
    def effects(self) -> dict[str, float]:
        """The effects by what is compared."""
        return {
            "time": self.effect,
            "call time": self.call_effect,
            "compile time": self.compile_effect,
            "peak memory": self.memory_effect,
        }


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing that is timed: a model's forward pass or training step, or the scan.

    Attributes:
        name: the case's name in results and for `--only`.
        kind: "model" or "scan".
        variant, size: of a model; a size of None is the variant's own.
        backend: of a model: "mvc", "inductor" or "eager".
        mode: Inductor's mode, for a compiled model.
        training: whether a backward is run too.
        frozen: the option of the backend "mvc", in inference.
        batch, dtype, device: of the input.
        dim, length, states: of the scan's input, (batch, length, dim) with that many states.
        slowdown: share of extra work to insert on purpose, for studies of the gate itself.
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
    slowdown: float = 0.0

    def __post_init__(self) -> None:
        _check_types(self)
        allowed = {
            "kind": ("model", "scan", RECORDED),
            "backend": ("mvc", "inductor", "eager"),
            "mode": MODES,
            "dtype": ("float32", "float16", "bfloat16"),
            "device": ("cpu", "cuda"),
        }
        for key, values in allowed.items():
            if getattr(self, key) not in values:
                raise UserError(f"{key} is {getattr(self, key)!r}; it must be {' or '.join(values)}")
        for key in ("batch", "dim", "length", "states"):
            if getattr(self, key) < 1:
                raise UserError(f"{key} is {getattr(self, key)!r}; it must be at least 1")

    @property
    def has_exact_numbers(self) -> bool:
        """Whether the case has numbers that do not vary from run to run: of compiled code, or the memory of tensors on
        a GPU."""
        return self.device == "cuda" or (self.kind == "model" and self.backend != "eager")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Suite:
    """Cases of one device."""

    cases: tuple[Case, ...]
    thresholds: Thresholds

    def __post_init__(self) -> None:
        if recorded := [case.name for case in self.cases if case.kind == RECORDED]:
            raise UserError(f"kind of {recorded[0]} is {RECORDED!r}, which is for recordings of other tools")
        if len(devices := {case.device for case in self.cases}) > 1:
            raise UserError(f"the cases are on {' and '.join(sorted(devices))}; give each device a file of its own")

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
        facts = tomllib.loads(chosen.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--cases {chosen} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--cases {chosen} is no TOML file: {error}") from error
    if unknown := facts.keys() - {"thresholds", "cases"}:
        raise UserError(f"{chosen} has {sorted(unknown)[0]!r}; it may hold [thresholds] and [cases.NAME]")
    table = facts.get("cases", {})
    if not isinstance(table, dict) or not table or not all(isinstance(each, dict) for each in table.values()):
        raise UserError(f"{chosen} has no cases; write one as [cases.NAME]")
    cases = tuple(_build(Case, {"name": name, **each}, f"{chosen}, case {name}") for name, each in table.items())
    return Suite(cases, _build(Thresholds, facts.get("thresholds", {}), f"{chosen}, thresholds"))


def _check_types(facts: Thresholds | Case) -> None:
    """Check that every field has the type of its default. A whole number may stand for a float, and None for a size."""
    for field in dataclasses.fields(facts):
        value = getattr(facts, field.name)
        expected = {dataclasses.MISSING: str, None: int}.get(field.default, type(field.default))
        if value is field.default or type(value) is expected or (expected is float and type(value) is int):
            continue
        raise UserError(f"{field.name} is {value!r}; it must be of type {expected.__name__}")


def _build(cls: type, facts: Mapping[str, Any], where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := facts.keys() - fields.keys():
        raise UserError(f"{where}: {sorted(unknown)[0]!r} is unknown; known are {', '.join(fields)}")
    facts = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    try:
        return cls(**facts)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a value has the wrong type ({error})") from error
