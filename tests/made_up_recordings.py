"""Recordings of machines that do not exist, for tests and for docs/pictures/, which these commands make:

python tests/made_up_recordings.py FOLDER
python -m mvc.regress report FOLDER --title "Latency of a made-up project" --output page.html
chromium --headless --hide-scrollbars --window-size=1280,1200 --blink-settings=preferredColorScheme=1 \\
    --screenshot=docs/pictures/report-light.png file://$PWD/page.html    # 0 and report-dark.png: the dark one
"""

import dataclasses
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np

from mvc.measure.environment import Environment
from mvc.regress.cases import Case
from mvc.regress.recordings import store
from mvc.regress.recordings.recording import RecordedCase, Recording
from mvc.regress.sources.version import Version
from mvc.regress.worker import Facts

FIRST = datetime(2026, 1, 1, 3, tzinfo=timezone.utc)
NIGHTS = 180
MACHINE = Environment(
    date="2026-01-01T03:00:00+00:00",
    torch="2.14.1",
    triton="3.8.0",
    python="3.12.4",
    compiler="g++ 13.2.0",
    platform="Linux x86_64",
    device="cuda: Example GPU",
    driver="570.124",
    sm_clock_mhz=1980,
    memory_clock_mhz=2619,
    cpu="Example CPU",
    threads=16,
    affinity=16,
    frequency_mhz=None,
    load=0.1,
)


def nightly(
    cases: dict[str, list[float]],
    *,
    first: datetime = FIRST,
    noise: float = 0.004,
    accepted: dict[str, tuple[int, str]] | None = None,
    **environment: list,
) -> list[Recording]:
    """A recording a night, of a commit each.

    Args:
        cases: the seconds of a call in each night, by the case's name.
        first: the first night.
        noise: the standard deviation of the processes' levels, as a share.
        accepted: by the case's name, the night from which on a slowdown is accepted, and the acceptance.
        environment: fields that vary, with their value in each night.
    """
    draw, made = np.random.default_rng(0), []
    for night in range(len(next(iter(cases.values())))):
        date = (first + timedelta(days=night)).isoformat(timespec="seconds")
        fields = {name: values[night] for name, values in environment.items()}
        commit = "".join(f"{each:x}" for each in draw.integers(16, size=40))
        made.append(
            Recording(
                dataclasses.replace(MACHINE, date=date, **fields),
                Version(asked="installed", commit=commit, time=date, dirty=False, branch="main"),
                {name: _recorded(name, seconds[night], noise, draw) for name, seconds in cases.items()},
                {name: [text] for name, (since, text) in (accepted or {}).items() if night >= since},
            )
        )
    return made


def _recorded(name: str, seconds: float, noise: float, draw: np.random.Generator) -> RecordedCase:
    levels = seconds * np.exp(draw.normal(0, noise, size=2))
    runs = [{"time": [float(level * (1 + 0.002 * (i % 5))) for i in range(20)]} for level in levels]
    case = Case(name, kind="scan", device="cuda")
    return RecordedCase(case, {"time": "graph"}, runs, [Facts(exact={}, seconds=seconds)] * 2)


def varying(*spans: tuple[int, float | str], nights: int = NIGHTS) -> list:
    """A value for each night: each span begins with its night."""
    return [next(value for start, value in reversed(spans) if night >= start) for night in range(nights)]


def six_months(first: datetime = FIRST) -> list[Recording]:
    """Two steps of 6 %, the first accepted, the second with a driver; a creep of 0.5 % a week; a gain; and a case
    that stays."""
    creep = [4.31e-3 * 1.005 ** (max(0, night - 60) / 7) for night in range(NIGHTS)]
    return nightly(
        {
            "scan": varying((0, 1.20e-3), (40, 1.27e-3), (95, 1.35e-3)),
            "decoder": creep,
            "classifier-batch-128": varying((0, 31.2e-3), (140, 28.9e-3)),
            "classifier-batch-1": varying((0, 0.82e-3)),
        },
        first=first,
        accepted={"scan": (42, "2026-02-12: the softplus is exact now")},
        driver=varying((0, "570.124"), (95, "580.65")),
        torch=varying((0, "2.14.1"), (140, "2.15.0")),
        triton=varying((0, "3.8.0"), (140, "3.9.0")),
    )


def write(folder: Path, recordings: list[Recording]) -> None:
    """Write recordings as a folder of baselines."""
    for recording in recordings:
        store.write(recording, store.baseline_path(folder, recording))


if __name__ == "__main__":
    write(Path(sys.argv[1]), six_months(datetime.now(timezone.utc) - timedelta(days=NIGHTS - 1)))
