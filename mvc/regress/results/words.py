"""A comparison in sentences: the verdict first, then each case by its name, its change and its times."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator

from mvc.regress.compare import Comparison
from mvc.regress.decide import MOST_ROUNDS, further_rounds, scatters
from mvc.regress.outcome import SINGLE, CaseResult, Run, Times

MEANINGS = {
    0: "no change for the worse",
    1: "a regression",
    2: "inconclusive: neither a change nor its absence is sure",
    3: "not comparable",
}


def headline(comparison: Comparison) -> str:
    """The verdict in words, in one line: the cases that changed or could not be compared, and how many did not."""
    by_verdict = {
        verdict: [result for result in comparison.results if result.verdict == verdict]
        for verdict in ("regression", "inconclusive", "accepted", "improvement", "no change")
    }
    unchanged = len(by_verdict.pop("no change"))
    parts = [sentence(result) for result in by_verdict.pop("regression")]
    parts += [f"not comparable: {obstacle}" for obstacle in comparison.obstacles]
    parts += [sentence(result) for results in by_verdict.values() for result in results]
    if unchanged or not parts:
        parts.append(f"{unchanged} case{'s' * (unchanged != 1)} unchanged")
    across = f"Across {', '.join(comparison.across)}: " if comparison.across else ""
    return across + "; ".join(parts)


def sentence(result: CaseResult) -> str:
    """What became of a case, with its figures: "scan: 30 % slower, 1.00 to 1.31 ms"."""
    if result.verdict == "no change":
        return f"{result.case.name}: unchanged"
    sure = result.verdict != "inconclusive"
    what = "; ".join((_changed if sure else _span)(result, cause) for cause in result.causes)
    accepted = f" (accepted, {result.accepted})" if result.verdict == "accepted" else ""
    return f"{result.case.name}: {'' if sure else 'inconclusive, '}{what}{accepted}"


def _changed(result: CaseResult, cause: str) -> str:
    if exact := [each for each in result.exact if each.name == cause]:
        return f"{exact[0].name} {exact[0].head:,}, was {exact[0].base:,}"
    if cause in SINGLE:
        return f"{cause} {_more(statistics.geometric_mean(_single(result.runs, cause)))}"
    base, head = milliseconds(result, cause)
    what = "" if cause == "time" else f"{cause} "
    return f"{what}{_more(result.change(cause).median, 'slower', 'faster')}, {base} to {head} ms"


def _span(result: CaseResult, cause: str) -> str:
    """Between which changes the truth lies, as far as is known."""
    if cause in SINGLE:
        return f"{cause} {_more(statistics.geometric_mean(_single(result.runs, cause)))} in one of its runs"
    ratio = result.change(cause)
    what = "" if cause == "time" else f"{cause} "
    return f"{what}between {_more(ratio.low, 'slower', 'faster')} and {_more(ratio.high, 'slower', 'faster')}"


def _more(ratio: float, more: str = "more", less: str = "less") -> str:
    change = abs(ratio - 1) * 100
    return f"{change:.{0 if change >= 10 else 1}f} % {more if ratio >= 1 else less}"


def milliseconds(result: CaseResult, metric: str) -> tuple[str, str]:
    """The medians of base and head."""
    times = [run.times[metric] for run in result.runs]
    base, head = (itertools.chain.from_iterable(processes(times, side)) for side in ("base", "head"))
    return _three_digits(statistics.median(base) * 1e3), _three_digits(statistics.median(head) * 1e3)


def processes(times: list[Times], side: str) -> list[tuple[float, ...]]:
    """The seconds of a side, each once: base's processes are the same in several runs of recordings."""
    return list(dict.fromkeys(tuple(getattr(each, side)) for each in times))


def _three_digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}"


def remarks(result: CaseResult, comparison: Comparison) -> list[str]:
    """What the table does not say of a case: other metrics, what is not known, and what would settle it."""
    lines = [str(difference) for difference in result.exact]
    lines += result.unknown
    if discarded := sum(run.discarded for run in result.runs):
        lines.append(f"{discarded} rounds were measured anew, the GPU was throttled")
    if result.host_limited:
        base, head = result.call_over_device
        lines.append(f"limited by the host: a call takes {base:.2f} (base) and {head:.2f} (head) times its device time")
    reasons = dict.fromkeys(facts.no_graph for run in result.runs for facts in run.facts)
    lines += [f"no CUDA graph of it is timed: {reason}" for reason in reasons if reason]
    lines += _warnings(result)
    for metric, verdict in result.verdicts.items():
        if metric in SINGLE and verdict != "no change":
            ratios = " and ".join(f"{ratio:.2f} times" for ratio in _single(result.runs, metric))
            lines.append(f"{metric}: {verdict} ({ratios})")
        elif verdict == "inconclusive" and metric not in SINGLE:
            lines.append(f"{metric} is inconclusive: {_remedy(result, metric, comparison)}")
    return lines


def _warnings(result: CaseResult) -> Iterator[str]:
    """The warnings of the measured processes, each once with the sides that gave it."""
    sides: dict[str, set[str]] = {}
    for run in result.runs:
        for side, facts in zip(("base", "head"), run.facts, strict=True):
            for text in facts.warnings or ():
                sides.setdefault(text, set()).add(side)
    for text, where in sides.items():
        yield f"warning in {' and '.join(sorted(where))}: {text}"


def _remedy(result: CaseResult, metric: str, comparison: Comparison) -> str:
    """What would settle a metric: new runs where they disagree, or else more rounds, by the run that lacks most."""
    effect = result.thresholds.effects[metric]
    undecided = [run for run in result.runs if run.findings[metric] == "undecided"]
    if comparison.apart and result.lone_process:
        return "one process a side cannot show how much processes differ; give several files a side"
    if not undecided and comparison.apart:
        return "the processes differ by as much; record anew on a quieter machine, or compare revisions"
    if not undecided:
        return "its runs, in processes of their own, disagree; compare again on a quieter machine"
    times = [run.times[metric] for run in undecided]
    if comparison.apart and max(map(_spread, times)) > effect:
        return "the processes of base differ by as much; record anew on a quieter machine, or compare revisions"
    more = [further_rounds(each.ratio, len(each.head), effect) for each in times]
    how = "record both with" if comparison.apart else "with"
    rounds = None if None in more else f"{how} --rounds {max(len(each.head) for each in times) + max(more)}"
    if any(scatters(each.ratio, effect) for each in times):
        other = f", or {rounds}" if rounds else ""
        return f"its rounds scatter by more than is looked for; compare again on a quieter machine{other}"
    if rounds is None:
        return f"more than {MOST_ROUNDS:,} more rounds would settle it: it is about the effect looked for, {effect:.0%}"
    return f"about {max(more)} more rounds would settle it ({rounds})"


def _spread(times: Times) -> float:
    """By how much base's processes differ, as a share."""
    medians = [pair.median for pair in times.pairs]
    return max(medians) / min(medians) - 1


def _single(runs: list[Run], metric: str) -> list[float]:
    """In each run the ratio of a figure of which each process has one."""
    key = SINGLE[metric]
    return [getattr(head, key) / getattr(base, key) for base, head in (run.facts for run in runs)]
