"""Device profiles: sums, families and gaps of events that are given; what torch's profiler calls them."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from mvc.errors import UserError
from mvc.measure import device_profile
from mvc.measure.device_profile import Event, Kernel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_kernels_are_those_of_one_call_the_slowest_first():
    calls = [
        [Event("nvjet_a", 0.0, 2.0), Event("forward_kernel", 2.0, 3.0), Event("nvjet_a", 3.0, 5.0)],
        [Event("nvjet_a", 10.0, 14.0), Event("Memset (Device)", 14.0, 14.5)],
    ]
    profile = device_profile.of_calls(calls)
    assert profile.kernels == (
        Kernel("nvjet_a", 1.5, 4.0),
        Kernel("forward_kernel", 0.5, 0.5),
        Kernel("Memset (Device)", 0.5, 0.25),
    )
    assert profile.seconds == 4.75
    assert profile.gaps == 0
    assert profile.by_family() == {"matrix product": 4.0, "scan": 0.5, "copies and memsets": 0.25, "gaps": 0.0}
    assert list(profile.by_family()) == ["matrix product", "scan", "copies and memsets", "gaps"]
    assert profile.launches() == {"matrix product": 1.5, "scan": 0.5, "copies and memsets": 0.5}


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(5.0, 6.0)], 0.0),
        ([(0.0, 1.0), (1.5, 2.0), (4.0, 5.0)], 2.5),
        ([(4.0, 5.0), (0.0, 1.0), (1.5, 2.0)], 2.5),
        ([(0.0, 3.0), (1.0, 2.0), (3.5, 4.0)], 0.5),
        ([(0.0, 2.0), (1.0, 4.0), (3.0, 3.5)], 0.0),
        ([], 0.0),
    ],
    ids=["one", "apart", "unordered", "within another stream's", "overlapping", "none"],
)
def test_gaps_are_what_no_stream_fills(spans, expected):
    assert device_profile.idle([Event("k", *span) for span in spans]) == expected


def test_only_what_ran_on_the_device_counts():
    """The profiler's list also has calls of the CUDA runtime, and the device's side of ranges that users named."""

    def event(name, start, end, kind, annotation=False):
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(name=name, time_range=span, device_type=kind, is_user_annotation=annotation)

    events = [
        event("cudaLaunchKernel", 0, 5, DeviceType.CPU),
        event("forward_kernel", 6, 9, DeviceType.CUDA),
        event("my range", 5, 10, DeviceType.CUDA, annotation=True),
    ]
    (kernel,) = device_profile.of_device(events)
    assert kernel == Event("forward_kernel", pytest.approx(6e-6), pytest.approx(9e-6))


def test_torchs_events_have_the_attributes_that_are_read():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        x = torch.randn(64, 64)
        with torch.profiler.record_function("my range"):
            torch.mm(x, x)
    events = device_profile.of_device(profiled.events(), DeviceType.CPU)
    assert "aten::mm" in {event.name for event in events}
    assert "my range" not in {event.name for event in events}
    assert all(0 <= event.start <= event.end < 60 for event in events), "seconds"
    assert device_profile.of_device(profiled.events()) == []


def test_a_cpu_is_refused():
    with pytest.raises(UserError, match="on CUDA alone; the device is cpu"):
        device_profile.profile_device(lambda: None, device=CPU)


@pytest.fixture
def profiler(monkeypatch):
    """Stands for torch's on a GPU; what it saw, and what happened in which order."""
    seen, happened = [], []

    class Profile:
        def __init__(self, activities, acc_events):
            assert activities == [torch.profiler.ProfilerActivity.CUDA]
            assert os.environ["TEARDOWN_CUPTI"] == "0", "CUPTI is kept for the next call"

        def __enter__(self):
            happened.append("start")
            return self

        def __exit__(self, *exception):
            happened.append("stop")

        def events(self):
            return seen

    monkeypatch.setattr("torch.profiler.profile", Profile)
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: happened.append("synchronize"))
    return SimpleNamespace(seen=seen, happened=happened)


def test_a_profile_holds_one_whole_call(profiler):
    span = SimpleNamespace(start=0.0, end=2e6)
    profiler.seen.append(
        SimpleNamespace(name="k", time_range=span, device_type=DeviceType.CUDA, is_user_annotation=False)
    )
    profile = device_profile.profile_device(lambda: profiler.happened.append("run"), device=CUDA, calls=2)
    assert profiler.happened == ["synchronize", "start", "run", "synchronize", "stop"] * 2
    assert profile == ((Kernel("k", 1.0, 2.0),), 0.0)


def test_a_profiler_that_sees_no_kernel_is_an_error(profiler):
    with pytest.raises(UserError, match="saw no kernel"):
        device_profile.profile_device(lambda: None, device=CUDA)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_tells_what_it_ran_and_what_a_graph_replays():
    x, y = torch.randn(512, 512, device="cuda"), torch.empty(512, 512, device="cuda")

    def run():
        torch.mm(x, x, out=y)
        y.zero_()

    run()
    direct = device_profile.profile_device(run, device=CUDA)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replayed = device_profile.profile_device(graph.replay, device=CUDA)
    for profile in (direct, replayed):
        assert profile.launches()["matrix product"] >= 1
        assert profile.launches()["copies and memsets"] >= 1
        assert 1e-6 < profile.seconds < 1e-2
        assert 0 <= profile.gaps < 1e-2
