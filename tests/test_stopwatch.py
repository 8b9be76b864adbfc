"""How one call is timed: the order of what happens around it, on a device that is stood for."""

import pytest
import torch

from mvc import stopwatch
from mvc.errors import UserError

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

    class Graph:
        def replay(self):
            happened.append("replay")

    class Block:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            happened.append(f"begin {self.name}")

        def __exit__(self, *exception):
            happened.append(f"end {self.name}")

        def wait_stream(self, other):
            pass

    class Buffer:
        def zero_(self):
            happened.append("flush")

    def empty(size, dtype, device):
        assert size * dtype.itemsize == 2 * 50 * 2**20
        return Buffer()

    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: happened.append("synchronize"))
    monkeypatch.setattr("torch.cuda.CUDAGraph", Graph)
    monkeypatch.setattr("torch.cuda.graph", lambda graph: Block("capture"))
    monkeypatch.setattr("torch.cuda.Stream", lambda device: Block("side stream"))
    monkeypatch.setattr("torch.cuda.stream", lambda stream: stream)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: Block("stream"))
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


def test_a_graph_is_captured_once_and_replayed_on_the_next_input(happened):
    watch = stopwatch.stopwatch("graph", CUDA)
    read = []

    def run(x):
        happened.append("run")
        read.append(x)

    first, second = torch.tensor([1.0]), torch.tensor([2.0])
    assert watch.seconds(watch.bind(run, [first])) == 0.0025
    assert happened == [
        *("begin side stream", "run", "end side stream", "begin capture", "run", "end capture"),
        *("synchronize", "record", "replay", "record", "event.synchronize"),
    ]
    happened.clear()
    watch.seconds(watch.bind(run, [second]))
    assert happened == ["synchronize", "record", "replay", "record", "event.synchronize"]
    assert read[1].item() == 2.0, "the graph reads the tensor into which each input is copied"
    assert first.item() == 1.0


def test_the_cache_is_overwritten_with_twice_its_size(happened):
    stopwatch.CacheFlush(CUDA)()
    assert happened == ["flush"]


def test_the_default_is_what_the_device_has():
    assert stopwatch.stopwatch(None, CUDA).name == "events"
    assert stopwatch.stopwatch(None, CPU).name == "wall"
    assert set(stopwatch.MEANINGS) == {"wall", "events", "graph"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stopwatch.stopwatch("events", CPU), "clock is 'events', which needs CUDA"),
        (lambda: stopwatch.stopwatch("graph", CPU), "clock is 'graph', which needs CUDA"),
        (lambda: stopwatch.stopwatch("sun", CPU), "clock is 'sun'; it must be one of wall, events, graph"),
        (lambda: stopwatch.CacheFlush(CPU), "needs CUDA; the device is cpu"),
    ],
)
def test_what_a_device_does_not_have_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("clock", ["wall", "events", "graph"])
def test_a_real_product_is_timed(clock):
    watch, x = stopwatch.stopwatch(clock, CUDA), torch.randn(1024, 1024, device="cuda")
    for _ in range(3):
        assert 1e-6 < watch.seconds(watch.bind(torch.mm, [x, x])) < 1
