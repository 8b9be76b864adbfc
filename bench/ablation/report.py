"""The tables of the studies: what was found, the paper's figures beside it, and what the seeds can tell."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from bench.ablation import noise
from bench.ablation.costs import GPU, GPU_BATCH, LATENCY_BATCH, SIDE
from bench.ablation.designs import DESIGNS, PUBLISHED, STUDIES, of_study
from mvc.table import tabulate

PAPER = "paper's ImageNet top-1"
MEASURES = {"accuracy": "points", "loss": "nats"}  # of the test, with the units of differences


def training_key(design: str, seed: int) -> str:
    """The name of a training in the results."""
    return f"{design}, seed {seed}"


def values(facts: dict[str, Any], study: str, measure: str) -> dict[str, dict[int, float]]:
    """A measure of the trainings of a study, by design and seed; designs without a training are left out."""
    found: dict[str, dict[int, float]] = {name: {} for name in of_study(study)}
    for each in facts.get("trainings", {}).values():
        if each["design"] in found:
            found[each["design"]][each["seed"]] = each[measure]
    return {name: by_seed for name, by_seed in found.items() if by_seed}


def page(facts: dict[str, Any]) -> str:
    """All that was found, in Markdown."""
    parts = [_trained(facts)]
    parts += [part for study in STUDIES for part in (_accuracies(facts, study), _told(facts, study))]
    parts.append(_costs(facts))
    return "\n\n".join(filter(None, parts)) + "\n"


def _trained(facts: dict[str, Any]) -> str:
    """How the models were trained, and where."""
    trainings, settings = facts.get("trainings", {}).values(), facts.get("settings", {})
    if not trainings:
        return ""
    least, most = (f"{choose(each['parameters'] for each in trainings):,}" for choose in (min, max))
    side, rate = settings["side"], f"{settings['learning_rate']:g}"
    return (
        f"{len(trainings)} trainings of models with {least} to {most} parameters: {settings['steps']} steps of "
        f"{settings['batch']} images of {side} x {side} by AdamW at a learning rate of at most {rate}, with a weight "
        f"decay of {settings['weight_decay']:g} and no augmentation. Of {settings['images']:,} images "
        f"({settings['data']}), half trains and half tests, drawn anew for each seed. "
        f"{_minutes(trainings, 'seconds')} minutes in all, {_minutes(trainings, 'cpu_seconds')} of processors; "
        f"{_where(facts, 'trainings')}."
    )


def _minutes(trainings: Iterable[dict[str, Any]], kind: str) -> str:
    return f"{sum(each[kind] for each in trainings) / 60:.0f}"


def _where(facts: dict[str, Any], part: str) -> str:
    about = facts["environment"][part]
    threads = f"{about['threads']} thread{'s' if about['threads'] != 1 else ''}"
    return f"{about['device']}, {threads}, torch {about['torch']}, commit {about['commit']}, {about['date'][:10]}"


def _accuracies(facts: dict[str, Any], study: str) -> str:
    accuracy, loss = (values(facts, study, measure) for measure in MEASURES)
    if not accuracy:
        return ""
    analysis = noise.analyse(accuracy, PUBLISHED)
    rows = []
    for name, by_seed in accuracy.items():
        rows.append(
            [
                name,
                len(by_seed),
                spread([*by_seed.values()], 2),
                _difference(analysis, name),
                spread([*loss[name].values()], 4),
                f"{DESIGNS[name].paper:.1f}",
            ]
        )
    headers = [study, "seeds", "accuracy, % (sd)", f"difference from {PUBLISHED!r} (95 %)", "loss, nats (sd)", PAPER]
    return tabulate(rows, headers, markdown=True)


def spread(numbers: list[float], digits: int) -> str:
    """The mean, and the standard deviation over seeds where there are several."""
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    return mean if len(numbers) < 2 else f"{mean} ({statistics.stdev(numbers):.{digits}f})"


def _difference(analysis: noise.Analysis | None, name: str) -> str:
    if analysis is None or name not in analysis.differences:
        return ""
    found = analysis.differences[name]
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def _told(facts: dict[str, Any], study: str) -> str:
    """In words, which differences are larger than the noise of seeds."""
    return " ".join(filter(None, (_told_of(facts, study, measure) for measure in MEASURES)))


def _told_of(facts: dict[str, Any], study: str, measure: str) -> str:
    analysis = noise.analyse(values(facts, study, measure), PUBLISHED)
    if analysis is None:
        return ""
    unit, digits = MEASURES[measure], 4 if measure == "loss" else 2
    resolved = [f"{name} ({each.mean:+.{digits}f})" for name, each in analysis.differences.items() if each.is_resolved]
    which = f"those of {', '.join(resolved)} are" if resolved else "none is"
    return (
        f"Of the differences in {measure} from {PUBLISHED!r}, {which} larger than the noise of {len(analysis.seeds)} "
        f"seeds: {analysis.smallest:.{digits}f} {unit} or more would be. Beside what a seed gives to all designs, a "
        f"training has a standard deviation of {analysis.noise:.{digits}f} {unit}; if all designs were alike, means as "
        f"far apart would have a probability of {analysis.p:.2g} (F test)."
    )


def _costs(facts: dict[str, Any]) -> str:
    """T at full size; columns of which nothing is known are left out."""
    parts = {part: facts.get(part, {}) for part in ("counts", "latency", "gpu")}
    names = [name for name in DESIGNS if any(name in found for found in parts.values())]
    if not names:
        return ""
    rows = []
    for name in names:
        counts, latency, gpu = (found.get(name) for found in parts.values())
        rows.append(
            [
                name,
                counts and f"{counts['parameters']:,}",
                counts and f"{counts['flops'] / 2e9:.2f}",
                latency and f"{latency['milliseconds']:.1f} ({latency['p10']:.1f} to {latency['p90']:.1f})",
                latency and latency["ratio"] and "{median:.3f} ({low:.3f} to {high:.3f})".format(**latency["ratio"]),
                gpu and gpu["launches"],
                gpu and f"{gpu['bytes'] / 1e9:.2f}",
                gpu and f"{gpu['estimated_ms']:.2f}",
            ]
        )
    headers = [
        f"T, {SIDE} x {SIDE}",
        "parameters",
        "GMACs",
        f"ms on this CPU, {LATENCY_BATCH} images (10 to 90 %)",
        f"over that of {PUBLISHED!r} (90 %)",
        f"launches, {GPU_BATCH} images, {GPU}",
        "GB moved",
        "ms, estimated",
    ]
    kept = [column for column in range(len(headers)) if column == 0 or any(row[column] is not None for row in rows)]
    cells = [["" if row[column] is None else row[column] for column in kept] for row in rows]
    table = tabulate(cells, [headers[column] for column in kept], markdown=True)
    return "\n\n".join([table, *filter(None, [_told_of_latency(facts), _told_of_gpu(facts)])])


def _told_of_latency(facts: dict[str, Any]) -> str:
    if "latency" not in facts:
        return ""
    return f"Latencies are of compiled, frozen models in float32, timed in turns: {_where(facts, 'latency')}."


def _told_of_gpu(facts: dict[str, Any]) -> str:
    if "gpu" not in facts:
        return ""
    about = facts["environment"]["gpu"]
    return (
        "Launches and bytes are those of frozen code in float16, generated without a card, and the milliseconds a "
        f"roofline's estimate: torch {about['torch']}, triton {about['triton']}, commit {about['commit']}, "
        f"{about['date'][:10]}."
    )
