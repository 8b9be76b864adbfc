"""The regression gate's cases under pytest-benchmark, each in this process: `make bench ARGS="-k scan"`."""

import pytest

from mvc.regress import cases
from mvc.regress.process import workload


@pytest.mark.parametrize("case", cases.load().cases, ids=lambda case: case.name)
def test_case(case, benchmark):
    run, facts, _ = workload.build(case.as_dict())
    run = workload.until_done(run, case.device)
    benchmark.group = case.kind
    benchmark.extra_info |= {"case": case.as_dict(), **facts}
    benchmark.pedantic(run, warmup_rounds=5, rounds=30)
