"""Work and rates that a model is compared with."""

import pytest
import torch

from mvc import create_model
from mvc.measure import ceilings, flops
from mvc.measure.profiler import Timing


def test_ceilings_count_their_own_work():
    model = create_model("tiny", device="meta")
    meta = torch.device("meta")
    compute = ceilings.compute(model.config, (2, 3, 64, 64), dtype=torch.float32, device=meta, flops=10**12)
    assert set(compute) == {"matrix_product", "convolution_stage_1", "convolution_stage_2"}
    for name, (run, work) in compute.items():
        assert flops.count(run) == work, name
        assert work == pytest.approx(0.2 * 10**12, rel=0.1), name


def test_rates_are_work_over_time():
    compute = {"a": (lambda: None, 100), "b": (lambda: None, 300)}
    assert ceilings.rates(compute, {"a": Timing((1.0,)), "b": Timing((2.0,))}) == {"a": 100, "b": 150}


def test_a_copy_reads_and_writes():
    run, size = ceilings.copy(torch.device("cpu"))
    assert size == 2 * run().nbytes


def test_share_of_ceiling():
    assert ceilings.share(100, 2.0, 200.0) == 0.25
    assert ceilings.share(100, -1.0, 200.0) is None
