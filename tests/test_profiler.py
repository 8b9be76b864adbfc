"""Timing, memory and ceilings."""

import itertools

import pytest
import torch

from mvc import create_model, profiler
from mvc.profiler import Timing

CPU = torch.device("cpu")


def test_percentiles_are_linear_between_samples():
    timing = Timing((4.0, 1.0, 3.0, 2.0, 5.0))
    assert timing.median == 3.0
    assert timing.percentile(0.1) == pytest.approx(1.4)
    assert timing.percentile(0.9) == pytest.approx(4.6)
    assert Timing((2.0,)).percentile(0.9) == 2.0


def test_ratio_pairs_the_rounds():
    slow_then_fast = Timing((10.0, 1.0, 2.0))
    assert slow_then_fast.ratio_to(Timing((5.0, 0.5, 1.0))) == 2.0


def test_interleave_runs_everything_once_a_round(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(profiler.time, "perf_counter", lambda: float(next(ticks)))
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "abc"}
    timings = profiler.interleave(runs, rounds=20, warmup=1, device=CPU)
    assert order[:3] == list("abc")
    rounds = [tuple(order[i : i + 3]) for i in range(3, len(order), 3)]
    assert len(rounds) == 20
    assert all(sorted(names) == list("abc") for names in rounds)
    assert len(set(rounds)) > 3, "the order is drawn anew for each round"
    assert all(timing.seconds == (1.0,) * 20 for timing in timings.values())


def test_peak_memory_sees_an_allocation():
    quiet = profiler.peak_memory(lambda: None, CPU)
    busy = profiler.peak_memory(lambda: torch.ones(64 * 2**20), CPU)  # 256 MiB
    assert busy - quiet > 200 * 2**20


def test_flops_of_a_matrix_product():
    assert profiler.count_flops(lambda: torch.randn(3, 5) @ torch.randn(5, 7)) == 2 * 3 * 5 * 7


def test_ceilings_count_their_own_work():
    model = create_model("tiny", device="meta")
    meta = torch.device("meta")
    ceilings = profiler.ceilings(model.config, (2, 3, 64, 64), dtype=torch.float32, device=meta, flops=10**12)
    assert set(ceilings) == {"matrix_product", "convolution_stage_1", "convolution_stage_2"}
    for name, (run, work) in ceilings.items():
        assert profiler.count_flops(run) == work, name
        assert work == pytest.approx(0.2 * 10**12, rel=0.1), name


def test_share_of_ceiling():
    assert profiler.share_of_ceiling(100, 2.0, 200.0) == 0.25
    assert profiler.share_of_ceiling(100, -1.0, 200.0) is None


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_replay_runs_every_scan(training):
    model = create_model("tiny").train(training)
    replay = profiler.scan_replay(model, torch.randn(2, 3, 64, 64))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        replay()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["mvc::selective_scan"] == 2
    assert calls.get("mvc::selective_scan_backward", 0) == (2 if training else 0)
