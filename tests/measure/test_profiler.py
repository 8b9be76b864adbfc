"""Timing, memory and ceilings."""

import itertools

import pytest
import torch

from mvc import create_model
from mvc.errors import UserError
from mvc.measure import nvml, profiler, stopwatch
from mvc.measure.capture import NotCapturable
from mvc.measure.device_profile import Event
from mvc.measure.profiler import Timing

CPU = torch.device("cpu")


def test_percentiles_are_linear_between_samples():
    timing = Timing((4.0, 1.0, 3.0, 2.0, 5.0))
    assert timing.median == 3.0
    assert timing.percentile(0.1) == pytest.approx(1.4)
    assert timing.percentile(0.9) == pytest.approx(4.6)
    assert Timing((2.0,)).percentile(0.9) == 2.0


def test_ratio_pairs_the_rounds():
    slow_then_fast = Timing((10.0, 1.0, 2.0))
    assert slow_then_fast.ratio_to(Timing((5.0, 0.5, 1.0))) == pytest.approx((2.0, 2.0, 2.0))


@pytest.fixture
def ticking(monkeypatch):
    """A clock that is a second later each time it is looked at."""
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))


def test_measure_runs_everything_once_a_round(ticking):
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "abc"}
    measured = profiler.measure(runs, rounds=20, device=CPU)
    rounds = [tuple(order[i : i + 3]) for i in range(len(order) - 60, len(order), 3)]
    assert all(sorted(names) == list("abc") for names in rounds)
    assert len(set(rounds)) > 3, "the order is drawn anew for each round"
    assert all(timing.seconds == (1.0,) * 20 for timing in measured.timings.values())
    assert (measured.clock, measured.flushed, measured.discarded, measured.gpu) == ("wall", False, {}, None)


def test_each_call_takes_the_next_input_whichever_is_called(ticking):
    calls = []
    runs = {name: (lambda x, name=name: calls.append((name, x))) for name in "ab"}
    profiler.measure(runs, rounds=30, device=CPU, inputs=[("x",), ("y",), ("z",)])
    timed = calls[-60:]
    assert [x for _, x in timed] == list("xyz" * 20), "an input comes again after all others, never at once"
    assert {(name, x) for name, x in timed} == {(name, x) for name in "ab" for x in "xyz"}, "all inputs for all"


def test_each_is_called_until_its_time_settles(monkeypatch):
    seconds = iter([*(9.0, 8.0, 7.0), *(3.0, 2.0, 2.0), *(1.0, 1.0, 1.0), *(1.0, 1.05, 1.0)])
    monkeypatch.setattr(stopwatch.WallClock, "seconds", lambda self, call: next(seconds, 1.0))
    measured = profiler.measure({"a": lambda: None}, rounds=2, device=CPU)
    assert measured.not_warm == ()
    assert next(seconds, None) is None, "it was measured before it had settled"


def test_what_never_settles_is_said(ticking, monkeypatch):
    growing = itertools.count(1)
    monkeypatch.setattr(stopwatch.WallClock, "seconds", lambda self, call: 2.0 ** next(growing))
    assert profiler.measure({"a": lambda: None}, rounds=1, device=CPU).not_warm == ("a",)


def gpu(monkeypatch, reasons):
    """Lets a CPU's rounds be judged as a GPU's, with these reasons to discard them."""
    monkeypatch.setattr("mvc.measure.nvml.discards", lambda spans, samples: reasons)


def test_discarded_rounds_are_counted_and_leave_no_time(monkeypatch):
    seconds = itertools.cycle([1.0])
    monkeypatch.setattr(stopwatch.WallClock, "seconds", lambda self, call: next(seconds))
    gpu(monkeypatch, [None, "throttled: power cap", "low", "low", None])
    measured = profiler.measure({"a": lambda: None, "b": lambda: None}, rounds=5, device=CPU)
    assert measured.discarded == {"throttled: power cap": 1, "low": 2}
    assert [len(timing.seconds) for timing in measured.timings.values()] == [2, 2]


def test_no_round_left_is_an_error(monkeypatch):
    gpu(monkeypatch, ["throttled: power cap"] * 2)
    with pytest.raises(UserError, match=r"all 2 rounds were discarded \(throttled: power cap\)"):
        profiler.measure({"a": lambda: None}, rounds=2, device=CPU)


class Fixed:
    """A clock of a GPU that is not there: one callable's seconds are what it returns, times a factor."""

    def __init__(self, name, of_device, factor):
        self.name, self.of_device, self.factor = name, of_device, factor

    def bind(self, run, arguments):
        return lambda: run(*arguments)

    def seconds(self, call):
        return self.factor * call()


@pytest.fixture
def gpu_clocks(monkeypatch):
    """Device time as it is given; a call takes 1.1 times that, or at least 50."""
    calls = Fixed("events", False, 1.0)
    calls.seconds = lambda call: max(50.0, 1.1 * call())
    monkeypatch.setattr(profiler, "for_calls", lambda device: calls)
    monkeypatch.setattr(profiler, "for_all", lambda watch, runs, inputs, required: (watch, None))
    monkeypatch.setattr(profiler, "stopwatch", lambda clock, device: Fixed("graph", True, 1.0))


def test_the_devices_time_and_that_of_a_call_are_taken_in_the_same_rounds(gpu_clocks):
    order = []
    runs = {"long": lambda x: order.append(("long", x)) or 100.0, "short": lambda x: order.append(("short", x)) or 45.0}
    runs["tiny"] = lambda x: order.append(("tiny", x)) or 1.0
    measured = profiler.measure(runs, rounds=4, device=CPU, inputs=[("x",), ("y",)])
    assert {name: timing.median for name, timing in measured.timings.items()} == {"long": 100, "short": 45, "tiny": 1}
    assert {name: round(timing.median) for name, timing in measured.calls.items()} == {
        "long": 110,
        "short": 50,
        "tiny": 50,
    }
    assert measured.limited_by_host == ("tiny",), "50 is below 1.2 times 45"
    rounds = [order[-24:][start : start + 6] for start in range(0, 24, 6)]
    for taken in rounds:
        assert sorted(name for name, _ in taken) == ["long", "long", "short", "short", "tiny", "tiny"]
        assert all(first[0] == second[0] for first, second in zip(taken[::2], taken[1::2], strict=True))
        assert [x for _, x in taken] == ["x", "y"] * 3, "each call takes the next input"


def test_clocks_that_time_calls_say_nothing_twice():
    measured = profiler.measure({"a": lambda: None}, rounds=1, device=CPU)
    assert measured.calls is None
    assert measured.clock_reason is None
    assert measured.limited_by_host == ()


def test_why_not_graphs_is_said_and_what_was_asked_for_is_required(gpu_clocks, monkeypatch):
    asked = []

    def for_all(watch, runs, inputs, *, required):
        asked.append(required)
        return Fixed("kernels", True, 1.0), "a waits for the device"

    monkeypatch.setattr(profiler, "for_all", for_all)
    measured = profiler.measure({"a": lambda: 1.0}, rounds=1, device=CPU)
    assert (measured.clock, measured.clock_reason) == ("kernels", "a waits for the device")
    profiler.measure({"a": lambda: 1.0}, rounds=1, device=CPU, clock="graph")
    assert asked == [False, True]


@pytest.mark.parametrize("waits", [False, True], ids=["all captured", "one waits"])
def test_by_default_a_gpu_replays_graphs_or_sums_the_kernels_of_all(waits, monkeypatch):
    """A replay takes 2 s, the kernels 1.9 s, a call 5 s; the device is stood for."""

    def capture(run, arguments, device, *, pool):
        if waits and run is runs["b"]:
            raise NotCapturable("waits for the device")
        return lambda: 2.0

    runs = {"a": lambda x: 5.0, "b": lambda x: 5.0}
    monkeypatch.setattr(stopwatch, "capture", capture)
    monkeypatch.setattr(stopwatch, "trace", lambda call, *, device: call() and [Event("k", 0.0, 1.9)])
    monkeypatch.setattr(stopwatch.DeviceEvents, "seconds", lambda self, call: call())
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 1))
    unwatched = nvml.Watch(CPU)
    monkeypatch.setattr(nvml, "Watch", lambda device: unwatched)
    measured = profiler.measure(runs, rounds=3, device=torch.device("cuda"), inputs=[("x",), ("y",)])
    expected = ("kernels", "b waits for the device", 1.9) if waits else ("graph", None, 2.0)
    assert (measured.clock, measured.clock_reason, measured.timings["a"].median) == expected
    assert measured.timings["a"].seconds == measured.timings["b"].seconds
    assert measured.calls["b"].seconds == (5.0,) * 3
    assert measured.limited_by_host == ("a", "b")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("clock", stopwatch.MEANINGS)
def test_a_gpu_is_measured_and_watched(clock):
    x = torch.randn(2048, 2048, device="cuda")
    measured = profiler.measure(
        {"product": torch.mm}, rounds=10, device=x.device, inputs=[(x, x)], clock=clock, flush=True
    )
    assert measured.clock == clock
    assert measured.gpu["samples"] >= 2
    assert len(measured.timings["product"].seconds) + sum(measured.discarded.values()) == 10
    assert (measured.calls is None) == (clock in ("wall", "events"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_times_graphs_by_default_and_kernels_where_one_waits():
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    runs = {"product": lambda: x @ x, "tiny": lambda: x[:8, :8] + 1}
    graphs = profiler.measure(runs, rounds=10, device=x.device)
    assert (graphs.clock, graphs.clock_reason) == ("graph", None)
    assert graphs.limited_by_host == ("tiny",)
    kernels = profiler.measure({**runs, "waits": lambda: x.sum().item()}, rounds=10, device=x.device)
    assert (kernels.clock, kernels.clock_reason) == ("kernels", "waits waits for the device")
    assert kernels.timings["product"].median == pytest.approx(graphs.timings["product"].median, rel=0.15)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_replay_runs_every_scan(training):
    model = create_model("tiny").train(training)
    replay = profiler.scan_replay(model, torch.randn(2, 3, 64, 64))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        replay()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["mvc::selective_scan"] == 2
    assert calls.get("mvc::selective_scan_backward", 0) == (2 if training else 0)
