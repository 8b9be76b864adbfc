"""Clocks: "wall" is the time of a call until the device is done; "graph" is the device's time of a call, by the replay
of a CUDA graph; "kernels" is the summed time of the call's kernels, copies and memsets by the profiler.

A clock is a function from a number of calls to a list of seconds of one call. Where calls differ, `every` is how many
of them do the average work together.
"""

import itertools
import math
import statistics
import time

import torch
from torch.autograd import DeviceType

GRAPH_SECONDS = 2e-3  # a graph lasts at least about this long, so that what its replay adds is a thousandth of it


def until_done(run, device):
    """The call with a wait for its result."""
    if device == "cpu":
        return run
    return lambda: (run(), torch.cuda.synchronize())


def timed(run, calls):
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def warm(run, every=1, *, window=5, tolerance=0.05, limit=20.0):
    """Run until the medians of two consecutive windows of calls agree within the tolerance; return the last median."""
    started, last = time.perf_counter(), statistics.median(timed(run, window * every))
    while True:
        now = statistics.median(timed(run, window * every))
        if abs(now / last - 1) < tolerance or time.perf_counter() - started > limit:
            return now
        last = now


def by_wall(call, every=1):
    """A clock of calls that wait for their result."""
    return lambda wanted: [sum(timed(call, every)) / every for _ in range(math.ceil(wanted / every))]


def device_clocks(run, every=1, obstacle=None):
    """The device's clocks by name, and why the replay of a graph is not among them.

    Args:
        obstacle: why, where it is known beforehand.

    Raises:
        RuntimeError: there is no such clock.
    """
    clocks = {"kernels": by_kernels(run, every)}
    if obstacle is None and replays_graphs(run):
        obstacle = "a call replays CUDA graphs of its own"
    if obstacle is None:
        try:
            return {"graph": by_graph(run, every), **clocks}, None
        except Exception as error:  # a failed capture raises many kinds of error
            torch.cuda.synchronize()
            obstacle = next(iter(str(error).splitlines()), "no message")
    clocks["kernels"](1)  # may be refused, which should show now
    return clocks, obstacle


def replays_graphs(run):
    """Whether a call replays a CUDA graph: capturing it would fail, and could leave the device's state broken."""
    replay, seen = torch.cuda.CUDAGraph.replay, []

    def noticed(graph):
        seen.append(graph)
        replay(graph)

    torch.cuda.CUDAGraph.replay = noticed
    try:
        run()
    finally:
        torch.cuda.CUDAGraph.replay = replay
    return bool(seen)


def by_graph(run, every=1):
    """A clock whose seconds are means over the calls in a CUDA graph. A graph holds many calls if they are short."""
    graph, calls = capture(run, every), every
    seconds = statistics.median(replayed(graph, 3))
    if seconds < GRAPH_SECONDS:
        calls = every * math.ceil(GRAPH_SECONDS / seconds)
        graph = capture(run, calls)
    return lambda wanted: [seconds / calls for seconds in replayed(graph, max(3, math.ceil(wanted / calls)))]


def capture(run, calls):
    """A CUDA graph of `calls` calls."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):  # exited even where the capture fails, unlike with torch.cuda.graph alone
        for _ in range(2):
            run()  # what is made on first use must exist before the capture
        torch.cuda.set_sync_debug_mode("error")  # a call that waits would end the capture and leave torch unusable
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(calls):
                run()
    return graph


def replayed(graph, count):
    """Seconds of `count` replays, after one more that keeps the device busy while the host submits the others."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    graph.replay()
    for event in events[:-1]:
        event.record()
        graph.replay()
    events[-1].record()
    events[-1].synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in itertools.pairwise(events)]


def by_kernels(run, every=1):
    """A clock whose seconds are the mean over a turn's calls, by the profiler."""
    return lambda wanted: [_kernel_seconds(run, every * math.ceil(wanted / every))]


def _kernel_seconds(run, calls):
    return sum(each.time_range.elapsed_us() for each in kernels(run, calls)) / 1e6 / calls


def kernels(run, calls):
    """The kernels, copies and memsets of some calls, as events of the profiler.

    Raises:
        RuntimeError: it saw none.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
    seen = [each for each in profiler.events() if each.device_type == DeviceType.CUDA and not each.is_user_annotation]
    if not seen:
        raise RuntimeError("torch.profiler saw no kernel: none ran, or NVIDIA's driver keeps CUPTI for administrators")
    return seen
