"""Capturing a call in a CUDA graph: what prevents it is seen before, and what fails leaves nothing behind."""

import contextlib
import warnings
from types import SimpleNamespace

import pytest
import torch

from mvc.errors import UserError
from mvc.measure import capture

CUDA, POOL = torch.device("cuda"), (0, 1)


@pytest.fixture
def cuda(monkeypatch):
    """Stands for torch.cuda: what it was told, in order, and whether a capture fails."""
    state = SimpleNamespace(happened=[], stream="default", fails=0, mode="default")

    class Stream:
        def __init__(self, device=None):
            pass

        def wait_stream(self, other):
            pass

        def synchronize(self):
            state.happened.append("wait")

    class Event:
        def synchronize(self):
            state.happened.append("wait")

    class Graph:
        def replay(self):
            state.happened.append("replay")

        def capture_begin(self):
            state.happened.append("begin")

        def reset(self):
            state.happened.append("reset")

    @contextlib.contextmanager
    def stream(name):
        outer, state.stream = state.stream, name
        try:
            yield
        finally:
            state.stream = outer

    class graph:  # as torch's: a capture that fails leaves its stream current
        def __init__(self, graph, pool=None):
            self.graph = graph

        def __enter__(self):
            self.outer, state.stream = state.stream, "capturing"
            self.graph.capture_begin()

        def __exit__(self, kind, error, traceback):
            if state.fails:
                state.fails -= 1
                raise RuntimeError("operation failed due to a previous error during capture")
            state.stream = self.outer
            state.happened.append("end")

    def set_mode(mode):
        state.mode = mode
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)

    for name, value in {
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "stream": stream,
        "graph": graph,
        "current_stream": lambda device: state.stream_object,
        "synchronize": lambda device=None: state.happened.append("wait"),
        "get_sync_debug_mode": lambda: state.mode,
        "set_sync_debug_mode": set_mode,
    }.items():
        monkeypatch.setattr(f"torch.cuda.{name}", value)
    state.stream_object = Stream()
    monkeypatch.setattr("torch.random.fork_rng", lambda devices: contextlib.nullcontext())
    monkeypatch.setattr("torch.zeros", lambda size, device: state.happened.append("a kernel"))
    monkeypatch.setattr("torch.rand", lambda size, device: state.happened.append("random"))
    abandoned = state.abandoned = []
    monkeypatch.setattr("mvc.passes.torch_private.abandon_capture", lambda *arguments: abandoned.append(arguments))
    return state


def test_a_call_runs_beside_before_it_is_captured(cuda):
    read = []

    def run(*arguments):
        cuda.happened.append(f"run on {type(cuda.stream).__name__ if cuda.stream != 'capturing' else 'capturing'}")
        read.append(arguments)

    x = torch.tensor([1.0])
    replay = capture.capture(run, [x, 3], CUDA, pool=POOL)
    assert cuda.happened == ["run on Stream", "begin", "run on capturing", "end"]
    assert all(y is x for y, _ in read)
    assert cuda.mode == "default"
    replay()
    assert cuda.happened[-1] == "replay"


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda: torch.cuda.CUDAGraph().replay(), "replays CUDA graphs itself"),
        (lambda: torch.cuda.CUDAGraph().capture_begin(), "replays CUDA graphs itself"),
        (lambda: torch.cuda.synchronize(), "waits for the device"),
        (lambda: torch.cuda.Event().synchronize(), "waits for the device"),
        (lambda: torch.cuda.Stream().synchronize(), "waits for the device"),
        (lambda: warnings.warn("called a synchronizing CUDA operation", stacklevel=1), "waits for the device"),
    ],
    ids=["replay", "capture", "synchronize", "event", "stream", "operator"],
)
def test_what_prevents_a_capture_is_seen_before_it_begins(cuda, run, reason):
    with pytest.raises(capture.NotCapturable, match=reason):
        capture.capture(run, [], CUDA, pool=POOL)
    assert "end" not in cuda.happened
    assert cuda.mode == "default"
    assert not cuda.abandoned
    replayed = len(cuda.happened)
    torch.cuda.synchronize()
    assert len(cuda.happened) == replayed + 1, "torch's functions are as they were"


def fail_once(cuda):
    """Runs, and fails when it is captured."""
    if cuda.stream == "capturing":
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be ...")


def test_a_capture_that_fails_leaves_the_stream_and_its_memory_and_says_what_came_first(cuda):
    cuda.fails = 1
    with pytest.raises(capture.NotCapturable) as caught:
        capture.capture(lambda: fail_once(cuda), [], CUDA, pool=POOL)
    assert str(caught.value) == "fails while it is captured (operation not permitted when stream is capturing)"
    assert cuda.stream == "default"
    (abandoned,) = cuda.abandoned
    assert abandoned[1:] == (POOL, CUDA)
    assert cuda.happened == ["begin", "begin", "a kernel", "end", "random", "wait"], "a capture that succeeds, then use"


def test_cuda_that_stays_unusable_is_an_error(cuda):
    cuda.fails = 2
    with pytest.raises(UserError, match=r"CUDA cannot be used since .*; start again with the clock 'kernels'"):
        capture.capture(lambda: fail_once(cuda), [], CUDA, pool=POOL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_usable_after_a_capture_has_failed(monkeypatch):
    x, y, pool = torch.ones(1000, device="cuda"), torch.ones(1000, device="cuda"), torch.cuda.graph_pool_handle()
    with pytest.raises(capture.NotCapturable, match="waits for the device"):
        capture.capture(lambda: x.sum().item(), [], CUDA, pool=pool)
    monkeypatch.setattr(capture, "obstacle", lambda run, arguments, device: (run(*arguments), None)[1])
    stream, allocated = torch.cuda.current_stream(), torch.cuda.memory_allocated()
    with pytest.raises(capture.NotCapturable, match="fails while it is captured"):
        capture.capture(lambda: (x * 2).sum().item(), [], CUDA, pool=pool)
    assert torch.cuda.current_stream() == stream
    assert not torch.cuda.is_current_stream_capturing()
    assert torch.rand(10, device="cuda").std() > 0
    assert torch.cuda.memory_allocated() <= allocated + 2**20
    replay = capture.capture(x.add_, [y], CUDA, pool=torch.cuda.graph_pool_handle())
    x.zero_()
    y.fill_(3.0)
    replay()
    assert x.eq(3).all()
