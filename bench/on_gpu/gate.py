"""The regression gate compared with known truth on this card: a version against itself, and with 5 % more work."""

from __future__ import annotations

import json
import time
from typing import Any

from bench.on_gpu.children import Failed
from bench.on_gpu.session import Session
from mvc.regress import cases

PART = "gate"
SLOWDOWN = 0.05
CASE_SECONDS = 150.0
# In the order of importance; the other cases follow in the file's order.
FIRST = ("scan-model", "T-batch-128", "scan-language", "T-batch-1")
QUICK_CASE, QUICK_OPTIONS = "scan", ["--rounds", "10"]


def planned(quick: bool) -> list[str]:
    """The names of the cases for GPUs; in a trial, that of one case that any machine can run."""
    names = [case.name for case in cases.load(device="cuda").cases]
    return [QUICK_CASE] if quick else [*FIRST, *(name for name in names if name not in FIRST)]


def run(session: Session, until: float) -> None:
    """Run case by case, each in a process of its own with its own time limit."""
    for case in planned(session.quick):
        if time.monotonic() > until:
            break
        try:
            _try(session, case, min(until, time.monotonic() + CASE_SECONDS))
        except Failed as error:
            session.fail(PART, case, str(error))
        except TimeoutError:
            if time.monotonic() < until:
                session.fail(PART, case, f"ended after its limit of {CASE_SECONDS:.0f} s")


def _try(session: Session, case: str, until: float) -> None:
    target = session.scratch / f"gate-{case}.json"
    options = ["--only", case, "--comparisons", "1", "--slowdown", str(SLOWDOWN), "--json", str(target)]
    options += QUICK_OPTIONS if session.quick else ["--device", "cuda"]
    session.say(f"{PART}: {case} ...")
    child = session.children.start_command(["-m", "mvc.regress", "selftest", *options], name=case)
    try:
        list(child.rest(until))  # the table for people, whose rows are reported one by one below
        if not target.is_file():
            child.take()  # raises the reason
        facts = json.loads(target.read_text(encoding="utf-8"))
    finally:
        session.children.end([child])
    _record(session, case, facts)


def _record(session: Session, case: str, facts: dict[str, Any]) -> None:
    if facts["not_comparable"]:
        raise Failed("; ".join(facts["not_comparable"]))
    session.add(PART, case, trials=facts["trials"])
    for trial in facts["trials"]:
        truth = f"{trial['slowdown']:.0%} more work" if trial["slowdown"] else "against itself"
        ratios = ", ".join(f"{ratio['median']:.3f}" for ratio in trial["ratios"])
        session.say(f"{PART}: {case} {truth}: {trial['verdict']} (times {ratios}): {trial['outcome']}")
        if trial["outcome"] == "wrong" and not session.quick:  # a trial's rounds are too few to judge
            session.fail(PART, f"{case} {truth}", f"the gate says {trial['verdict']}; times {ratios}")
