"""The regression gate's cases under pytest-benchmark, each in this process: `make bench ARGS="-k scan"`."""

import pytest

from mvc.regress import cases
from mvc.regress.process import clocks, main


@pytest.mark.parametrize("case", cases.load().cases, ids=lambda case: case.name)
def test_case(case, benchmark):
    built = main.build(case.as_dict())
    benchmark.group = case.kind
    facts, _ = main.prepared(built, case=case.as_dict(), timed=False, slowdown=0.0, paths=[])
    facts.pop("peak_bytes", None)  # of this process, which runs all cases
    benchmark.extra_info |= {"case": case.as_dict(), **facts}
    benchmark.pedantic(clocks.until_done(built.run, case.device), warmup_rounds=5, rounds=30)
    built.close()
