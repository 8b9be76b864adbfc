"""How often the regression gate errs on this machine, by comparisons whose truth is known.

For each case, a version is compared with itself, and with itself plus extra work (`--slowdowns`, 7.5 % and 5 %):
elementwise products for that share of the case's own time, on CUDA the device's.

After each comparison the results are kept beside the output, as *.partial, so that an interrupted study continues where
it stopped. A study takes a good hour on two cores.

  python bench/regress_study.py                       all of it; the table is printed and written beside the figures
  python bench/regress_study.py --cases scan --same 5 --slower 2 --output study.json
  python bench/regress_study.py --device cuda         the same on a GPU
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from mvc import cli, files
from mvc.cli import write_json
from mvc.measure.environment import Environment, environment
from mvc.progress import Progress
from mvc.regress import cases, compare, record
from mvc.regress.commands.options import share
from mvc.regress.recordings.recording import COMPARABLE
from mvc.regress.selftest import Trial, count, smallest_detectable, trial
from mvc.regress.sources.scratch import Scratch, device_lock
from mvc.regress.sources.version import checkout
from mvc.table import tabulate

RESULTS = Path(__file__).parent / "results"
STUDIED = {"cpu": ["scan", "T"], "cuda": ["scan-language", "T-batch-128"]}
OUTPUTS = {"cpu": "regress_study.json", "cuda": "regress_study_gpu.json"}
SLOWDOWNS = (0.075, 0.05)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="default scan T, on CUDA scan-language T-batch-128")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="whose cases (default cpu)")
    parser.add_argument("--same", type=int, default=30, help="comparisons without a change (default 30)")
    parser.add_argument("--slower", type=int, default=20, help="comparisons for each slowdown (default 20)")
    parser.add_argument("--slowdowns", nargs="+", type=share, default=SLOWDOWNS, metavar="SHARE", help="as 0.075")
    parser.add_argument("--output", type=Path, help="JSON (default in bench/results); the table goes beside it as .md")
    args = parser.parse_args()
    args.output = args.output or RESULTS / OUTPUTS[args.device]
    suite = cases.load(device=args.device).only(args.cases or STUDIED[args.device])
    counts = {0.0: args.same, **dict.fromkeys(args.slowdowns, args.slower)}
    partial = args.output.with_suffix(".partial")
    study = _resumed(partial, environment(torch.device(args.device)), suite.thresholds)
    trials = [Trial.from_json(each) for each in study["trials"]]
    progress = Progress(quiet=False)
    folder = record.PACKAGE.parent
    with Scratch() as scratch, device_lock(torch.device(args.device), progress):
        for case in suite.cases:
            # One pair for the whole study: compiled once.
            sides = compare.fresh_sides(scratch, ("base", folder, None), ("head", folder, None))()
            for slowdown, wanted in counts.items():
                done = sum((each.case, each.slowdown) == (case.name, slowdown) for each in trials)
                for seed in range(done, wanted):
                    with progress.step(f"{case.name}, {slowdown * 100:g} % slower, {seed + 1} of {wanted}"):
                        trials.append(trial(case, slowdown, lambda: sides, suite.thresholds_of(case), seed=seed))  # noqa: B023
                    study["trials"].append(trials[-1]._asdict())
                    args.output.parent.mkdir(parents=True, exist_ok=True)
                    write_json(study, str(partial))
    partial.replace(args.output)
    text = table(Environment.from_json(study["environment"]), trials, suite.thresholds)
    files.replace(args.output.with_suffix(".md"), text)
    print(text)


def _resumed(path: Path, environment: Environment, thresholds: cases.Thresholds) -> dict[str, Any]:
    version = checkout(record.PACKAGE, "installed")
    begun = {"commit": version.commit, "thresholds": json.loads(json.dumps(dataclasses.asdict(thresholds)))}
    if not path.is_file():
        return {"environment": dataclasses.asdict(environment), **begun, "trials": []}
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise SystemExit(f"{path} is no JSON, or is cut off; remove it, or choose --output") from None
    differing = [key for key in COMPARABLE if study["environment"].get(key) != getattr(environment, key)]
    if differing := [*differing, *(key for key in begun if study.get(key) != begun[key])]:
        raise SystemExit(f"{path} differs in its settings ({', '.join(differing)}); remove it, or choose --output")
    return study


def table(environment: Environment, trials: list[Trial], thresholds: cases.Thresholds) -> str:
    """The table in Markdown."""
    rows = []
    for name in dict.fromkeys(each.case for each in trials):
        for slowdown in dict.fromkeys(each.slowdown for each in trials if each.case == name):
            some = [each for each in trials if (each.case, each.slowdown) == (name, slowdown)]
            verdicts = [count(some, each) for each in ("regression", "improvement", "no change", "inconclusive")]
            measured = statistics.median(ratio.median for each in some for ratio in each.ratios)
            minutes = sum(each.seconds for each in some) / 60
            rows.append([name, f"{slowdown * 100:g}%", f"{measured - 1:+.1%}", len(some), *verdicts, f"{minutes:.0f}"])
    headers = [
        *("case", "slower by", "measured", "comparisons", "regression", "improvement", "no change"),
        *("inconclusive", "minutes"),
    ]
    smallest = "; ".join(
        f"{name}: {_percent(smallest_detectable([each for each in trials if each.case == name], thresholds.effect))}"
        for name in dict.fromkeys(each.case for each in trials)
    )
    return "\n".join(
        [
            f"`python bench/regress_study.py`, {environment.date[:10]}, {environment}:",
            "",
            tabulate(rows, headers=headers, markdown=True),
            "",
            "Smallest slowdown that would be called a regression in 9 of 10 comparisons, if it moved the ratios of "
            f"those without a change and as many rounds were taken: {smallest}. "
            f"Minutes in all: {sum(each.seconds for each in trials) / 60:.0f}.",
            "",
        ]
    )


def _percent(share: float | None) -> str:
    return "above 50 %" if share is None else f"{share:.0%}"


if __name__ == "__main__":
    main()
