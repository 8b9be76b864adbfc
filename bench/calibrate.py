"""Fits the constants of `mvc.offline.estimate` to measured kernels, and reports their error for other models.

    python bench/calibrate.py

The constants are fitted, by least squares of the logarithms of times, to the kernels of `FITTED_TO` and to scans
measured alone, and tried on the kernels of `HELD_OUT`. The script writes mvc/offline/calibration.json and
bench/results/calibration.md. The times were measured on a card (`MEASURED`); the launches (`LAUNCHES`) were generated
without a card, by the code that was measured. `--generate` generates them anew, for new measurements.
"""

from __future__ import annotations

import functools
import json
import math
import re
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from mvc import cli, files
from mvc.measure import families
from mvc.offline.estimate import CALIBRATION, Efficiency, family, seconds
from mvc.offline.generate import generate
from mvc.offline.manifest import Launch, Request
from mvc.offline.targets import find
from mvc.table import tabulate

MEASURED = Path(__file__).parent / "measured" / "h200-2026-11-26.json"
LAUNCHES = MEASURED.with_name("launches.json")
PAGE = Path(__file__).parent / "results" / "calibration.md"
TARGET, DTYPE, SIZE = find("h200"), "float16", (224, 224, "float16")
FITTED_TO = {
    "published T at batch 128": Request("T", 128, *SIZE, passes="none", builder="bench.published:create_model"),
    "ConvNeXt-T at batch 128": Request(
        "convnext_tiny", 128, *SIZE, passes="none", builder="bench.calibrate:timm_model"
    ),
}
HELD_OUT = {
    "T at batch 128": Request("T", 128, *SIZE, frozen=True),
    "T at batch 1": Request("T", 1, *SIZE, frozen=True),
}
# What is fitted for each family: a fixed time, shared by families that name the same one, and fields of `Efficiency`.
PARAMETERS = {
    "convolution": ("library", "bandwidth", "flops"),
    "depthwise convolution": ("library", "bandwidth", "flops"),
    "matrix product": ("library", "bandwidth", "flops"),
    "attention": ("library", "flops"),
    "generated: GELU": ("generated", "bandwidth"),
    "generated: LayerNorm": ("generated", "bandwidth"),
    "generated: other": ("generated", "bandwidth"),
    "scan": ("generated", "step", "flops"),
}
START = {"fixed": 2e-6, "bandwidth": 0.5, "flops": 0.3, "step": 3e-7}
FULL = dict.fromkeys(PARAMETERS, Efficiency(0.0))
DEPTHWISE = re.compile(r"^conv1D|_c1_")  # of cuDNN's kernels, those for one channel a group
ADDED = re.compile(r"workspace")  # kernels that cuDNN runs before a convolution
CHUNK = 128  # the scan's chunks are multiples of it


class Kernel(NamedTuple):
    """The card's time for all calls of one kernel."""

    name: str
    calls: int
    seconds: float


class Row(NamedTuple):
    """Launches, and the card's time for them together."""

    name: str
    launches: Sequence[Launch]
    seconds: float


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--generate", action="store_true", help=f"write {LAUNCHES.name} first; needs timm")
    if parser.parse_args().generate:
        rows = {name: generated(request) for name, request in {**FITTED_TO, **HELD_OUT}.items()}
        files.replace(LAUNCHES, json.dumps(rows).replace("], [", "],\n[") + "\n")
    facts = calibrated()
    files.replace(CALIBRATION, json.dumps(facts, indent=1) + "\n")
    files.replace(PAGE, page(facts))
    print(page(facts))


def timm_model(name: str, *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """One of timm's models, with the attributes that `mvc.offline.codegen` needs."""
    import timm

    model = timm.create_model(name).to(device=device, dtype=dtype, memory_format=torch.channels_last)
    model.config = SimpleNamespace(in_chans=3)
    return model


def generated(request: Request) -> list[list[Any]]:
    """A model's launches, in the form that `launches` reads."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = generate(request, TARGET, Path(folder) / "code", kernels=False)
    counts = Counter(
        (each.kind, each.name, each.bytes_moved, each.flops, each.groups, each.steps) for each in manifest.launches
    )
    return [[count, *each] for each, count in counts.items()]


def launches(model: str) -> list[Launch]:
    return [
        Launch(kind, name, (), "forward", (), (), {"": moved}, {}, flops, groups, steps)
        for count, kind, name, moved, flops, groups, steps in json.loads(LAUNCHES.read_text(encoding="utf-8"))[model]
        for _ in range(count)
    ]


@functools.cache
def measured() -> dict[str, Any]:
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def kernels(model: str) -> list[Kernel]:
    return [Kernel(name, calls, us / 1e6) for name, calls, us in measured()["profiles"][model]["kernels"]]


def family_of(kernel: Kernel) -> str:
    return "depthwise convolution" if DEPTHWISE.search(kernel.name) else families.family(kernel.name)


def total(some: Iterable[Launch], efficiencies: Mapping[str, Efficiency]) -> float:
    return sum(seconds(each, TARGET, DTYPE, efficiencies) for each in some)


def calibrated() -> dict[str, Any]:
    """The contents of `CALIBRATION`."""
    efficiencies = fitted(fitting())
    return {
        **{key: measured()[key] for key in ("card", "driver", "torch", "triton", "date", "commit")},
        "dtype": DTYPE,
        "efficiencies": {name: each._asdict() for name, each in efficiencies.items()},
        "errors": {model: round(error(model, efficiencies), 4) for model in HELD_OUT},
        "rank correlations": {model: round(rank_correlation(by_name(model), efficiencies), 4) for model in HELD_OUT},
    }


def error(model: str, efficiencies: Mapping[str, Efficiency]) -> float:
    """The error of a model's total time: all launches over all kernels, also those without a launch, minus one."""
    return total(launches(model), efficiencies) / sum(kernel.seconds for kernel in kernels(model)) - 1


def rank_correlation(rows: Sequence[Row], efficiencies: Mapping[str, Efficiency]) -> float:
    """Spearman's rank correlation of the estimated and the measured times of rows with launches and kernels. No two
    times may be equal."""

    def ranks(values: list[float]) -> list[int]:
        return [sorted(values).index(value) for value in values]

    rows = [row for row in rows if row.launches and row.seconds]
    estimated = [total(row.launches, efficiencies) for row in rows]
    return statistics.correlation(ranks(estimated), ranks([row.seconds for row in rows]))


def by_name(model: str) -> list[Row]:
    """Rows that pair launches with kernels of the same name, apart from the number at its end, where both are as many.
    All other launches are paired with the kernels of their family."""
    some, given = launches(model), kernels(model)
    counts, calls = Counter(unnumbered(each.name) for each in some), Counter()
    for kernel in given:
        calls[unnumbered(kernel.name)] += kernel.calls
    same = {name for name, count in counts.items() if calls[name] == count}
    return _rows(
        [(name if (name := unnumbered(each.name)) in same else family(each), each) for each in some],
        [(name if (name := unnumbered(each.name)) in same else family_of(each), each) for each in given],
    )


def by_family(model: str) -> list[Row]:
    """Rows that pair launches with kernels by family. Memsets and kernels that libraries add have no launch."""
    return _rows(
        [(family(each), each) for each in launches(model)], [(family_of(each), each) for each in kernels(model)]
    )


def _rows(some: Iterable[tuple[str, Launch]], given: Iterable[tuple[str, Kernel]]) -> list[Row]:
    together, spent = defaultdict(list), Counter()
    for name, kernel in given:
        spent[name] += kernel.seconds
    for name, launch in some:
        together[name].append(launch)
        spent[name] += 0.0
    return [Row(name, together[name], seconds) for name, seconds in spent.most_common()]


def unnumbered(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def fitting() -> list[Row]:
    """The rows to fit: for each family but the scan, launches paired with kernels in order of size; and scans alone."""
    rows = []
    for model in FITTED_TO:
        for name, some, _ in by_family(model):
            if name in PARAMETERS and name != "scan":
                given = [each for each in kernels(model) if family_of(each) == name and not ADDED.search(each.name)]
                rows += cut(name, some, given)
    return rows + scans()


def cut(name: str, some: Sequence[Launch], given: Sequence[Kernel]) -> list[Row]:
    """Rows of launches and kernels, both from the largest to the smallest, cut where as many launches as calls have
    passed.

    Launches that the card's specification does not distinguish stay together. The last row has the rest where launches
    and calls differ in number.
    """
    same = defaultdict(list)
    for each in some:
        same[total([each], FULL), each.bytes_moved].append(each)
    waiting = [same[key] for key in sorted(same)]
    rows, part, calls, spent = [], [], 0, 0.0
    for kernel in sorted(given, key=lambda kernel: kernel.seconds / kernel.calls, reverse=True):
        calls, spent = calls + kernel.calls, spent + kernel.seconds
        while waiting and len(part) < calls:
            part = part + waiting.pop()
        if len(part) == calls:
            rows.append(Row(name, part, spent))
            part, calls, spent = [], 0, 0.0
    left = [*part, *(each for group in waiting for each in group)]
    return [*rows, Row(name, left, spent)] if left and spent else rows


def scans() -> list[Row]:
    """Forward scans of `mvc.kernels` measured alone, in both orders of memory."""
    rows = []
    for each in measured()["scans"]:
        length, chunks = each["length"], each["chunks"]
        flops = 7 * each["batch"] * each["dim"] * length * each["states"]  # as `mvc.kernels.scan.rules.flops` counts
        parts = [(flops, min(length, math.ceil(length / chunks / CHUNK) * CHUNK))]
        if chunks > 1:
            parts += [(0, chunks), *parts]
        some = [
            Launch("own", "forward_kernel", (), "forward", (), (), {}, {}, flops, steps=steps) for flops, steps in parts
        ]
        name = "batch {batch}, dim {dim}, length {length}, N {states}, {dtype}".format_map(each)
        rows += [Row(name, some, each[order] / 1e6) for order in ("along channels", "along length")]
    return rows


def fitted(rows: Sequence[Row]) -> dict[str, Efficiency]:
    """The constants, to three digits, with which the estimates of the rows are nearest to the measured times."""
    names = [(shared, "fixed") for shared in dict.fromkeys(shared for shared, *_ in PARAMETERS.values())]
    names += [(each, own) for each, (_, *some) in PARAMETERS.items() for own in some]

    def efficiencies(logarithms: Tensor) -> dict[str, Efficiency]:
        values = dict(zip(names, logarithms.exp().tolist(), strict=True))
        return {
            each: Efficiency(values[shared, "fixed"], **{own: values[each, own] for own in some})
            for each, (shared, *some) in PARAMETERS.items()
        }

    def errors(logarithms: Tensor) -> Tensor:
        constants = efficiencies(logarithms)
        return torch.tensor([math.log(total(row.launches, constants) / row.seconds) for row in rows]).double()

    start = torch.tensor([START[own] for _, own in names], dtype=torch.float64).log()
    nearest = efficiencies(least_squares(errors, start))
    return {name: Efficiency(*(float(f"{value:.3g}") for value in each)) for name, each in nearest.items()}


def least_squares(errors: Callable[[Tensor], Tensor], x: Tensor, rounds: int = 60, width: float = 1e-4) -> Tensor:
    """The method of Levenberg and Marquardt, with differences for derivatives."""
    now, damping, unit = errors(x), 1e-2, torch.eye(len(x), dtype=x.dtype)
    for _ in range(rounds):
        slopes = torch.stack([(errors(x + width * each) - now) / width for each in unit], 1)
        step = torch.linalg.solve(slopes.T @ slopes + damping * unit, -slopes.T @ now)
        then = errors(x + step)
        if then @ then < now @ now:
            x, now, damping = x + step, then, damping / 3
        else:
            damping *= 4
        if step.abs().max() < width:
            break
    return x


def page(facts: Mapping[str, Any]) -> str:
    """The page in Markdown: the constants, and their errors for the models fitted to and for those held out."""
    efficiencies = {name: Efficiency(**each) for name, each in facts["efficiencies"].items()}
    headers = ["family", "fixed, µs", "share of the bandwidth", "share of the FLOP/s", "a step, µs"]
    constants = [
        [name, *(f"{value:.3g}" for value in (each.fixed * 1e6, each.bandwidth, each.flops, each.step * 1e6))]
        for name, each in efficiencies.items()
    ]
    parts = [
        f"Kernels of an {facts['card']} (torch {facts['torch']}, triton {facts['triton']}, {facts['date']}, commit "
        f"{facts['commit']}), and what `python bench/calibrate.py` makes of them. A share of 1 is not fitted. "
        "Memsets and what libraries launch before their own kernels have no launch, and so no estimate. The scans of "
        "the published T were mamba-ssm's, to which nothing is fitted.",
        tabulate(constants, headers=headers, markdown=True),
    ]
    for model in (*FITTED_TO, *HELD_OUT):
        parts += [f"## {model}, {'fitted' if model in FITTED_TO else 'held out'}: {error(model, efficiencies):+.1%}"]
        parts += [_table(by_family(model), efficiencies)]
        if model in HELD_OUT:
            correlation = rank_correlation(by_name(model), efficiencies)
            parts += [_table(by_name(model), efficiencies), f"Rank correlation by name: {correlation:.3f}."]
    alone = "## Scans alone, fitted; of two equal ones inputs are along channels, then along length"
    return "\n\n".join([*parts, alone, _table(scans(), efficiencies)]) + "\n"


def _table(rows: Sequence[Row], efficiencies: Mapping[str, Efficiency]) -> str:
    cells = []
    for name, some, spent in rows:
        estimated = total(some, efficiencies)
        cells.append([name, len(some), f"{spent * 1e6:.1f}", f"{estimated * 1e6:.1f}", f"{estimated / spent - 1:+.0%}"])
    return tabulate(cells, headers=["", "launches", "measured, µs", "estimated, µs", "off"], markdown=True)


if __name__ == "__main__":
    main()
