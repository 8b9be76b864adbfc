"""The gate's clocks on CUDA and its extra work, on a device that is stood for: work moves its time on."""

import contextlib
import io
import itertools
import json
import statistics
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode

from mvc.regress.cases import Case
from mvc.regress.process import call, clocks, extra_work, main
from mvc.regress.process.built import Built, own_graphs

REPLAY = 2e-6  # seconds between two replays
RESOLUTION = 5e-7  # of events
LAUNCH = 2e-6  # seconds of a product, however small
ELEMENT = 2e-12  # of each of its elements


class Device:
    """What is captured by a graph does not run.

    Attributes:
        now: its time in seconds, when it waits for nobody.
        idle: seconds that it has waited for the host.
        captured: seconds of each kernel of the graph that is being made, or None.
        kernels: seconds of each that ran.
    """

    def __init__(self):
        self.now, self.idle, self.captured, self.kernels = 0.0, 0.0, None, []
        self.mode, self.captures = "default", 0

    def work(self, seconds):
        if self.captured is not None:
            self.captured.append(seconds)
        else:
            self.now += seconds
            self.kernels.append(seconds)

    @contextlib.contextmanager
    def graph(self, graph, stream):
        assert self.mode == "default"
        self.captured = graph.kernels
        self.captures += 1
        try:
            yield
        finally:
            self.captured = None

    def synchronize(self):
        if self.captured is not None:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    def read(self):
        """As `.item()` does."""
        if self.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        self.synchronize()


@pytest.fixture
def device(monkeypatch):
    device = Device()

    class Graph:
        def __init__(self):
            self.kernels = []

        def replay(self):
            device.now += REPLAY
            for seconds in self.kernels:
                device.work(seconds)

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.time = device.now

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return round((end.time - self.time) / RESOLUTION) * RESOLUTION * 1e3

    class Profile:
        def __init__(self, activities, acc_events):
            pass

        def __enter__(self):
            self.first = len(device.kernels)
            return self

        def __exit__(self, *exception):
            pass

        def events(self):
            def event(kind, seconds, annotation=False):
                span = SimpleNamespace(elapsed_us=lambda: seconds * 1e6)
                return SimpleNamespace(device_type=kind, is_user_annotation=annotation, time_range=span)

            seen = [event(DeviceType.CUDA, seconds) for seconds in device.kernels[self.first :]]
            return [*seen, event(DeviceType.CPU, 1.0), event(DeviceType.CUDA, 1.0, annotation=True)] if seen else []

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": contextlib.nullcontext,
        "CUDAGraph": Graph,
        "graph": device.graph,
        "Event": Event,
        "synchronize": device.synchronize,
        "set_sync_debug_mode": lambda mode: setattr(device, "mode", mode),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.profiler, "profile", Profile)
    return device


@pytest.mark.parametrize("seconds", [3e-6, 23e-6, 1e-4, 5e-3])
def test_a_graph_takes_what_its_calls_take(device, seconds):
    measured = clocks.by_graph(lambda: device.work(seconds))(20)
    assert len(measured) >= 3
    assert statistics.median(measured) == pytest.approx(seconds, rel=0.002)


def test_kernels_are_summed_without_what_is_no_kernel(device):
    def run():
        device.work(1e-4)
        device.work(3e-4)

    (measured,) = clocks.by_kernels(run)(7)
    assert measured == pytest.approx(4e-4)
    assert len(device.kernels) == 14


def test_a_profiler_that_sees_nothing_is_an_error(device):
    with pytest.raises(RuntimeError, match=r"torch\.profiler saw no kernel"):
        clocks.by_kernels(lambda: None)(7)


def test_what_can_be_captured_is_timed_by_its_graph(device):
    names, obstacle = clocks.device_clocks(lambda: device.work(1e-4))
    assert list(names) == ["graph", "kernels"]
    assert obstacle is None


@pytest.mark.parametrize(
    ("wait", "captures", "reason"),
    [
        (Device.read, 0, "called a synchronizing CUDA operation"),
        (Device.synchronize, 1, "operation not permitted when stream is capturing"),
    ],
    ids=["seen ahead", "fails"],
)
def test_what_waits_for_the_device_is_timed_by_its_kernels(device, wait, captures, reason):
    def run():
        device.work(1e-4)
        wait(device)

    names, obstacle = clocks.device_clocks(run)
    assert list(names) == ["kernels"]
    assert obstacle == reason
    assert device.captures == captures
    assert device.mode == "default"
    assert names["kernels"](3) == [pytest.approx(1e-4)]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("reduce-overhead", ["kernels"]),
        ("max-autotune", ["kernels"]),
        ("max-autotune-no-cudagraphs", ["graph", "kernels"]),
        (None, ["graph", "kernels"]),
    ],
)
def test_modes_that_replay_graphs_are_captured_by_none(device, mode, expected):
    names, obstacle = clocks.device_clocks(lambda: device.work(1e-3), obstacle=own_graphs(mode))
    assert list(names) == expected
    assert (obstacle == f"the mode {mode} replays CUDA graphs of its own") == ("graph" not in expected)


def test_a_call_that_replays_a_graph_is_captured_by_none(device):
    graph = torch.cuda.CUDAGraph()
    graph.kernels.append(1e-3)
    names, obstacle = clocks.device_clocks(lambda: graph.replay())
    assert list(names) == ["kernels"]
    assert obstacle == "a call replays CUDA graphs of its own"
    assert device.captures == 0


@pytest.mark.parametrize("clock", [clocks.by_graph, clocks.by_kernels])
def test_calls_that_differ_are_timed_together(device, clock):
    """Whichever of them comes first: another side may have made another number of calls before."""
    turns = itertools.cycle([1e-4, 2e-4, 6e-4])
    measure = clock(lambda: device.work(next(turns)), 3)
    next(turns)
    for wanted in (1, 3, 5):
        assert measure(wanted) == pytest.approx([3e-4] * len(measure(wanted)), rel=0.005)


def test_calls_that_differ_are_timed_together_by_the_wall(monkeypatch):
    now, turns = [0.0], itertools.cycle([1.0, 2.0, 6.0])
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now[0])

    def run():
        now[0] += next(turns)

    run()
    assert clocks.by_wall(run, 3)(5) == [3.0, 3.0]


class Products(TorchDispatchMode):
    """Gives elementwise products to a device."""

    def __init__(self, device, launch=LAUNCH):
        super().__init__()
        self.device, self.launch = device, launch

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mul_.Tensor and args[0].numel():
            self.device.work(self.launch + ELEMENT * args[0].numel())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("clock", [clocks.by_graph, clocks.by_kernels])
@pytest.mark.parametrize(
    ("seconds", "share"), [(7e-6, 0.05), (2.3e-5, 0.05), (1e-4, 0.05), (1e-4, 0.10), (5e-3, 0.05), (2.5e-2, 0.10)]
)
def test_extra_work_is_the_share_asked_for(device, seconds, share, clock):
    with Products(device):
        slower, every = extra_work.slowed_on_device(lambda: device.work(seconds), share, clock, "meta")
        measured = statistics.median(clock(slower, every)(20))
    assert measured / seconds - 1 == pytest.approx(share, rel=0.11)


def test_extra_work_that_cannot_be_made_is_an_error(device):
    with (
        Products(device, launch=5e-5),
        pytest.raises(RuntimeError, match=r"^extra work of 10% .* the case 50\.\d% slower"),
    ):
        extra_work.slowed_on_device(lambda: device.work(1e-4), 0.10, clocks.by_graph, "meta")


def answers(case, run, turns=(), slowdown=0.0, **built):
    """What the process of a case answers, in this process."""
    asked = [{"case": case.as_dict(), "timed": True, "slowdown": slowdown, "paths": []}, *turns]
    answered = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "build", lambda case, paths: Built(run, {}, dict, **built))
        main.serve(
            io.StringIO("".join(json.dumps(line) + "\n" for line in asked)), answered, SimpleNamespace(texts=["w"])
        )
    return [json.loads(line) for line in answered.getvalue().splitlines()]


@pytest.fixture
def on_device(device, monkeypatch):
    monkeypatch.setattr(torch, "ones", lambda size, device: torch.empty(size, device="meta"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1000)
    monkeypatch.setattr(main, "implementations", lambda run, hidden: run() and ["triton"])
    host = itertools.count()
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: device.now + device.idle + next(host) * 1e-9)
    return device


@pytest.mark.parametrize("slowdown", [0.0, 0.05])
def test_a_process_answers_by_every_clock(on_device, slowdown):
    """A call takes 1 ms on the device, and 3 ms until the host has handed it over."""

    def run():
        if on_device.captured is None:
            on_device.idle += 2e-3
        on_device.work(1e-3)

    turns = [{"calls": 5, "clock": clock} for clock in ("graph", "kernels", "wall")]
    with Products(on_device):
        ready, *seconds = answers(Case("T", device="cuda"), run, turns, slowdown)
    facts = ready["ready"]
    assert facts["clocks"] == ["graph", "kernels"]
    assert facts["no_graph"] is None
    assert facts["exact"] == {"peak bytes": 1000}
    assert facts["implementations"] == ["triton"]
    assert facts["warnings"] == ["w"]
    assert facts["seconds"] == pytest.approx(3e-3, rel=0.001)
    graph, kernels, wall = (statistics.median(each["seconds"]) for each in seconds)
    assert graph == pytest.approx(1e-3 * (1 + slowdown), rel=0.006)
    assert kernels == pytest.approx(graph, rel=0.002)
    assert wall == pytest.approx(graph + 2e-3, rel=0.002)


def test_what_is_chosen_by_its_time_has_no_exact_peak(on_device):
    run = lambda: on_device.work(1e-3)  # noqa: E731
    assert answers(Case("T", device="cuda"), run, chosen_by_time=True)[0]["ready"]["exact"] == {}


def test_launches_on_a_device_are_those_that_the_profiler_sees(device):
    def run():
        device.work(1e-4)
        device.work(2e-4)

    case = {"device": "cuda", "inputs": 3}
    assert call._exact(run, case, launches=True)["launches"] == 6
    assert call._exact(lambda: None, case, launches=True)["launches"] is None
    assert "launches" not in call._exact(run, case, launches=False)


def test_a_case_without_a_clock_says_why(on_device):
    (answer,) = answers(Case("scan", kind="scan", device="cuda"), on_device.synchronize)
    assert answer["error"].startswith("RuntimeError: torch.profiler saw no kernel: none ran")


def test_a_call_that_fails_later_says_why(on_device):
    calls = itertools.count()

    def run():
        on_device.work(1e-3)
        if next(calls) == 1000:
            raise ValueError("once\nmore lines")

    turns = [{"calls": 1000, "clock": "wall"}]
    closed = []
    assert answers(Case("T", device="cuda"), run, turns, close=lambda: closed.append(1))[1] == {
        "error": "ValueError: once"
    }
    assert closed == [1]
