"""How one call is timed: the order of what happens around it, on a device that is stood for."""

import itertools

import pytest
import torch

from mvc.errors import UserError
from mvc.measure import stopwatch
from mvc.measure.capture import NotCapturable
from mvc.measure.device_profile import Event

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def happened(monkeypatch):
    """What the fake device was told, in order."""
    happened = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            happened.append("record")

        def synchronize(self):
            happened.append("event.synchronize")

        def elapsed_time(self, end):
            return 2.5  # milliseconds

    class Buffer:
        def zero_(self):
            happened.append("flush")

    def empty(size, dtype, device):
        assert size * dtype.itemsize == 2 * 50 * 2**20
        return Buffer()

    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: happened.append("synchronize"))
    properties = type("Properties", (), {"L2_cache_size": 50 * 2**20})
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    monkeypatch.setattr("torch.empty", empty)
    return happened


def test_wall_time_waits_for_the_device_on_both_sides(happened):
    watch = stopwatch.stopwatch("wall", CUDA)
    assert watch.seconds(watch.bind(happened.append, ["run"])) > 0
    assert happened == ["synchronize", "run", "synchronize"]


def test_events_enclose_the_call(happened):
    watch = stopwatch.stopwatch("events", CUDA)
    assert watch.seconds(watch.bind(happened.append, ["run"])) == 0.0025
    assert happened == ["synchronize", "record", "run", "record", "event.synchronize"]


@pytest.fixture
def captures(happened, monkeypatch):
    """Stands for captures; a callable with an `obstacle` has none."""

    def capture(run, arguments, device, *, pool):
        if hasattr(run, "obstacle"):
            raise NotCapturable(run.obstacle)
        happened.append(f"capture {run.__name__} {arguments} in {pool}")
        return lambda: happened.append(f"replay {run.__name__} {arguments}")

    monkeypatch.setattr(stopwatch, "capture", capture)
    pools = itertools.count(1)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: f"pool {next(pools)}")


def scan(*arguments):
    pass


def model(*arguments):
    pass


def tree(*arguments):
    pass


tree.obstacle = "replays CUDA graphs itself"


def test_each_input_has_a_graph_of_its_own_captured_once(happened, captures):
    watch, first, second = stopwatch.stopwatch("graph", CUDA), ["x"], ["y"]
    assert watch.seconds(watch.bind(scan, first)) == 0.0025
    around = ["synchronize", "record"], ["record", "event.synchronize"]
    replay = "replay scan ['x']"
    assert happened == ["capture scan ['x'] in pool 1", replay, *around[0], replay, *around[1]]
    happened.clear()
    watch.seconds(watch.bind(scan, second))
    assert happened[0] == "capture scan ['y'] in pool 1", "graphs share their memory"
    happened.clear()
    watch.seconds(watch.bind(scan, first))
    assert happened == [*around[0], replay, *around[1]]


def test_kernels_are_summed_whatever_the_gaps(monkeypatch):
    def trace(call, *, device):
        call()
        return [Event("k", 1.0, 1.5), Event("k", 3.0, 3.25), Event("on another stream", 3.0, 4.0)]

    monkeypatch.setattr(stopwatch, "trace", trace)
    watch, called = stopwatch.stopwatch("kernels", CUDA), []
    assert watch.seconds(watch.bind(called.append, ["run"])) == 1.75
    assert called == ["run"]


def test_all_that_are_compared_have_one_clock(captures, happened):
    graphs, inputs = stopwatch.stopwatch("graph", CUDA), [["x"], ["y"]]
    assert stopwatch.for_all(graphs, {"scan": scan, "model": model}, inputs, required=False) == (graphs, None)
    assert len([each for each in happened if each.startswith("capture")]) == 4, "none is left to be captured later"
    runs = {"scan": scan, "compiled": tree, "model": model}
    watch, reason = stopwatch.for_all(graphs, runs, inputs, required=False)
    assert (watch.name, watch.device, reason) == ("kernels", CUDA, "compiled replays CUDA graphs itself")
    with pytest.raises(UserError, match="clock is 'graph', but compiled replays CUDA graphs itself; use 'kernels'"):
        stopwatch.for_all(graphs, runs, inputs, required=True)
    wall = stopwatch.stopwatch("wall", CUDA)
    assert stopwatch.for_all(wall, runs, inputs, required=True) == (wall, None)


def test_the_cache_is_overwritten_with_twice_its_size(happened):
    stopwatch.CacheFlush(CUDA)()
    assert happened == ["flush"]


def test_the_default_is_what_the_device_has():
    assert stopwatch.stopwatch(None, CUDA).name == "graph"
    assert stopwatch.stopwatch(None, CPU).name == "wall"
    assert stopwatch.for_calls(CUDA).name == "events"
    assert stopwatch.for_calls(CPU).name == "wall"
    watches = {clock: stopwatch.stopwatch(clock, CUDA) for clock in stopwatch.MEANINGS}
    assert {clock for clock, watch in watches.items() if watch.of_device} == {"graph", "kernels"}
    assert all(watch.name == clock for clock, watch in watches.items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stopwatch.stopwatch("events", CPU), "clock is 'events', which needs CUDA"),
        (lambda: stopwatch.stopwatch("graph", CPU), "clock is 'graph', which needs CUDA"),
        (lambda: stopwatch.stopwatch("kernels", CPU), "clock is 'kernels', which needs CUDA"),
        (lambda: stopwatch.stopwatch("sun", CPU), "clock is 'sun'; it must be one of wall, events, graph, kernels"),
        (lambda: stopwatch.CacheFlush(CPU), "needs CUDA; the device is cpu"),
    ],
)
def test_what_a_device_does_not_have_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("clock", stopwatch.MEANINGS)
def test_a_real_product_is_timed(clock):
    watch, x = stopwatch.stopwatch(clock, CUDA), torch.randn(1024, 1024, device="cuda")
    for _ in range(3):
        assert 1e-6 < watch.seconds(watch.bind(torch.mm, [x, x])) < 1
