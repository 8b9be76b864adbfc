"""How one call is timed: what the seconds hold and what they leave out, on a device that is stood for."""

import itertools

import pytest
import torch

from mvc.errors import UserError
from mvc.measure import stopwatch
from mvc.measure.capture import NotCapturable
from mvc.measure.device_profile import Event

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


class Device:
    """A GPU that is stood for: what is launched runs later, one after the other, and the host goes on at once.

    Attributes:
        now: the host's clock, seconds.
        done: when all that was launched has run.
    """

    def __init__(self):
        self.now = self.done = 100.0

    def launch(self, seconds, *, host=0.0):
        """Work of the device, for which the host takes a while."""
        self.now += host
        self.done = max(self.now, self.done) + seconds

    def synchronize(self, device=None):
        self.now = max(self.now, self.done)

    def event(self, enable_timing):
        assert enable_timing
        return Recorded(self)


class Recorded:
    """An event in the device's stream."""

    def __init__(self, device):
        self.device = device

    def record(self):
        self.time = max(self.device.now, self.device.done)

    def synchronize(self):
        self.device.now = max(self.device.now, self.time)

    def elapsed_time(self, end):
        assert self.device.now >= end.time, "the end is waited for before it is asked"
        return (end.time - self.time) * 1e3  # milliseconds


HOST, KERNEL = 1.0, 2.0  # seconds of a call


@pytest.fixture
def gpu(monkeypatch):
    gpu = Device()
    gpu.launch(50.0)  # of whatever was called before
    monkeypatch.setattr("torch.cuda.Event", gpu.event)
    monkeypatch.setattr("torch.cuda.synchronize", gpu.synchronize)
    monkeypatch.setattr("time.perf_counter", lambda: gpu.now)
    return gpu


@pytest.mark.parametrize("clock", ["wall", "events"])
def test_a_call_takes_its_launches_and_its_work_and_nothing_of_what_ran_before(gpu, clock):
    watch = stopwatch.stopwatch(clock, CUDA)
    call = watch.bind(lambda seconds: gpu.launch(seconds, host=HOST), [KERNEL])
    assert watch.seconds(call) == pytest.approx(HOST + KERNEL)
    gpu.launch(7.0)
    assert watch.seconds(call) == pytest.approx(HOST + KERNEL)


@pytest.fixture
def captures(gpu, monkeypatch):
    """Stands for captures, of which it returns the arguments; a callable with an `obstacle` has none.

    A replay is work of the device alone; the first one also brings the graph there.
    """
    seen = []

    def capture(run, arguments, device, *, pool):
        if hasattr(run, "obstacle"):
            raise NotCapturable(run.obstacle)
        seen.append((run, *arguments, pool))
        uploads = iter([30.0])
        return lambda: gpu.launch(next(uploads, 0.0) + arguments[0])

    monkeypatch.setattr(stopwatch, "capture", capture)
    pools = itertools.count(1)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: f"pool {next(pools)}")
    return seen


def scan(*arguments):
    pass


def model(*arguments):
    pass


def tree(*arguments):
    pass


tree.obstacle = "replays CUDA graphs itself"


def test_a_replay_is_timed_without_launches_and_without_its_first_run(gpu, captures):
    watch, short, long = stopwatch.stopwatch("graph", CUDA), [KERNEL], [3 * KERNEL]
    for _ in range(2):
        assert watch.seconds(watch.bind(scan, short)) == pytest.approx(KERNEL)
        assert watch.seconds(watch.bind(scan, long)) == pytest.approx(3 * KERNEL), "each input has a graph of its own"
    assert captures == [(scan, KERNEL, "pool 1"), (scan, 3 * KERNEL, "pool 1")], (
        "captured once; they share their memory"
    )


def test_kernels_are_summed_whatever_the_gaps(monkeypatch):
    def trace(call, *, device):
        call()
        return [Event("k", 1.0, 1.5), Event("k", 3.0, 3.25), Event("on another stream", 3.0, 4.0)]

    monkeypatch.setattr(stopwatch, "trace", trace)
    watch, called = stopwatch.stopwatch("kernels", CUDA), []
    assert watch.seconds(watch.bind(called.append, ["run"])) == 1.75
    assert called == ["run"]


def test_all_that_are_compared_have_one_clock(captures):
    graphs, inputs = stopwatch.stopwatch("graph", CUDA), [[1.0], [2.0]]
    assert stopwatch.for_all(graphs, {"scan": scan, "model": model}, inputs, required=False) == (graphs, None)
    assert len(captures) == 4, "none is left to be captured later"
    runs = {"scan": scan, "compiled": tree, "model": model}
    watch, reason = stopwatch.for_all(graphs, runs, inputs, required=False)
    assert (watch.name, watch.device, reason) == ("kernels", CUDA, "compiled replays CUDA graphs itself")
    with pytest.raises(UserError, match="clock is 'graph', but compiled replays CUDA graphs itself; use 'kernels'"):
        stopwatch.for_all(graphs, runs, inputs, required=True)
    wall = stopwatch.stopwatch("wall", CUDA)
    assert stopwatch.for_all(wall, runs, inputs, required=True) == (wall, None)


def test_the_cache_is_overwritten_with_twice_its_size(monkeypatch):
    made, empty = [], torch.empty

    def on_cpu(*size, device, **options):
        made.append(empty(*size, **options).fill_(1))
        return made[0]

    monkeypatch.setattr("torch.empty", on_cpu)
    properties = type("Properties", (), {"L2_cache_size": 64})
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    flush = stopwatch.CacheFlush(CUDA)
    assert made[0].nbytes == 128
    assert made[0].all()
    flush()
    assert not made[0].any()


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
