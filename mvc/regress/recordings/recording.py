"""What a recording holds, and what two of them must have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mvc.errors import UserError
from mvc.measure.environment import Environment
from mvc.regress.cases import Case
from mvc.regress.sources.version import Version
from mvc.regress.worker import Facts

# The fields in which two recordings must agree for their times to be compared.
COMPARABLE = (
    *("device", "driver", "sm_clock_mhz", "memory_clock_mhz", "cpu", "threads", "affinity"),
    *("platform", "compiler", "torch", "triton", "python"),
)


class Recording(NamedTuple):
    """The contents of one file.

    Attributes:
        environment: of the machine when the recording began.
        version: of the sources that were measured.
        cases: by name.
        accepted: the slowdowns that those sources accept, by the case's name; see `mvc.regress.accepted`.
    """

    environment: Environment
    version: Version
    cases: dict[str, RecordedCase]
    accepted: dict[str, list[str]] = {}  # noqa: RUF012 - never written to


class RecordedCase(NamedTuple):
    """The measurements of a case.

    Attributes:
        clocks: the clock that measured each time: "time", and on CUDA "call time".
        runs: the seconds of one call by the same names, for each process.
        facts: for each process.
        unsaid: fields of the case that an older recording does not tell.
    """

    case: Case
    clocks: dict[str, str]
    runs: list[dict[str, list[float]]]
    facts: list[Facts]
    unsaid: frozenset[str] = frozenset()


def only(recording: Recording, names: Sequence[str]) -> Recording:
    """The recording with the cases of these names; with all cases where no name is passed.

    Raises:
        UserError: a name that was not recorded.
    """
    if unknown := [name for name in names if name not in recording.cases]:
        raise UserError(f"--only has {unknown[0]!r}; recorded are {', '.join(recording.cases)}")
    return recording._replace(cases={name: recording.cases[name] for name in names or recording.cases})


def differences(base: Recording, head: Recording) -> list[str]:
    """Why the times of two recordings cannot be compared, a line for each field; empty if they can."""
    return [
        f"{key}: {getattr(base.environment, key)} against {getattr(head.environment, key)}"
        for key in COMPARABLE
        if getattr(base.environment, key) != getattr(head.environment, key)
    ]


def fingerprint(environment: Environment) -> str:
    """The folder's name for recordings of one kind of device."""
    text = f"{environment.device}-{environment.threads}-threads"
    return "".join(c if c.isalnum() else "-" for c in text).strip("-").replace("--", "-").lower()
