"""One case in a process of its own. The driver passes this file's text to `python -c`, so that it also measures
revisions older than itself. It therefore uses only public functions of mvc.

Lines of JSON: {"case": fields, "timed": whether it will be} comes in; {"ready": facts} goes out. Then each
{"calls": n, "clock": name} is answered by {"seconds": [...]}, and the end of the input ends the process. A case that
this mvc cannot run is answered by {"error": why}.

Clocks: "wall" is the time of a call until the device is done; "graph" is the device's time of a call, by the replay of
a CUDA graph; "kernels" is the summed time of the call's kernels, copies and memsets by the profiler.
"""

import functools
import itertools
import json
import math
import os
import statistics
import sys
import time

GRAPH_SECONDS = 2e-3  # a graph lasts at least about this long, so that what its replay adds is a thousandth of it
PRODUCT_SECONDS = 1e-5  # extra work lasts at least about this long: a kernel takes 2 us, however small it is
OWN_GRAPHS = ("reduce-overhead", "max-autotune")  # modes whose calls replay CUDA graphs


def build(case):
    """A callable of no arguments that runs the case once, facts about it, and a function that returns exact numbers.

    On CUDA the callable returns before the device is done.
    """
    import torch

    import mvc

    device, dtype = torch.device(case["device"]), getattr(torch, case["dtype"])
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch finds no CUDA device")
    torch.manual_seed(0)
    torch.set_grad_enabled(case["training"])
    run, facts, exact = (_scan if case["kind"] == "scan" else _model)(torch, mvc, case, device, dtype)
    facts["source"] = mvc.__file__
    return run, facts, exact


def _model(torch, mvc, case, device, dtype):
    changes = {"drop_path_rate": 0.0} if case["training"] else {}
    model = mvc.create_model(case["variant"], device=device, dtype=dtype, **changes).train(case["training"])
    side = case["size"] or model.config.image_size
    x = torch.randn(case["batch"], model.config.in_chans, side, side).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    compiled, facts, exact = model, {}, dict
    if case["backend"] != "eager":
        options = {"frozen": True} if case["frozen"] else None
        start = time.perf_counter()
        compiled, report = mvc.compile_model(model, x, backend=case["backend"], mode=case["mode"], options=options)
        facts["compile_seconds"] = time.perf_counter() - start
        exact = lambda: _exact(report, chosen_by_time(case))  # noqa: E731
    if not case["training"]:
        return lambda: compiled(x), facts, exact
    parameters = list(model.parameters())
    return lambda: torch.autograd.grad(compiled(x).float().sum(), parameters), facts, exact


def chosen_by_time(case):
    """Whether measurements choose what runs: among library calls where frozen on a CPU, or among kernels."""
    return (case["frozen"] and case["device"] == "cpu") or case["mode"].startswith("max-autotune")


def _exact(report, by_time):
    """Numbers that do not vary from run to run; those of generated code are unknown where it came from a cache.

    Args:
        by_time: leave out numbers that depend on measurements.
    """
    exact = {"graphs": len(report.graphs), "scans": report.scans}
    explanation = report.explanation
    if explanation.launches and not by_time:
        exact["launches"] = sum(explanation.launches.values())
    for graph in explanation.graphs:
        for record in graph.passes:
            if by_time and record.name.startswith("prepack_"):
                continue
            name = f"matches of {record.name}"
            exact[name] = exact.get(name, 0) + record.matches
    return exact


def _scan(torch, mvc, case, device, dtype):
    shape, states = (case["batch"], case["length"], case["dim"]), case["states"]
    u, delta = torch.randn(2, *shape).to(device, dtype)
    B, C = torch.randn(2, *shape[:2], states).to(device, dtype)
    A, D = -torch.rand(shape[2], states, device=device), torch.rand(shape[2]).to(device, dtype)
    inputs = (u, delta, A, B, C)
    if not case["training"]:
        return lambda: mvc.selective_scan(*inputs, D=D, delta_softplus=True), {}, dict
    leaves = [each.detach().requires_grad_() for each in inputs]

    def step():
        y = mvc.selective_scan(*leaves, D=D, delta_softplus=True)
        return torch.autograd.grad(y.float().sum(), leaves)

    return step, {}, dict


def until_done(run, device):
    """The call with a wait for its result."""
    if device == "cpu":
        return run
    import torch

    return lambda: (run(), torch.cuda.synchronize())


def timed(run, calls):
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def warm(run, *, window=5, tolerance=0.05, limit=20.0):
    """Run until the medians of two consecutive windows of calls agree within the tolerance; return the last median."""
    started, last = time.perf_counter(), statistics.median(timed(run, window))
    while True:
        now = statistics.median(timed(run, window))
        if abs(now / last - 1) < tolerance or time.perf_counter() - started > limit:
            return now
        last = now


def slowed(run, seconds, share, *, trials=3, trial_seconds=1.0):
    """The case with extra work: as many elementwise products as make it slower by that share, here and now.

    After a short case, a product needs another time than alone. The first guess is then corrected by timing calls with
    and without the extra work in turns.
    """
    import torch

    x = torch.rand(4096)
    repeats = round(share * seconds / statistics.median(timed(lambda: x.mul_(1.0), 200)))

    def both():
        run()
        for _ in range(repeats):
            x.mul_(1.0)

    pairs = round(trial_seconds / seconds)
    for _ in range(trials if pairs >= 100 else 0):
        slower = statistics.median([timed(both, 1)[0] / timed(run, 1)[0] for _ in range(pairs)]) - 1
        repeats = round(repeats * min(2.0, max(0.5, share / max(slower, 1e-9))))
    return both


def clocks_of(case, run, facts):
    """Functions from a number of calls to seconds of one call, by clock; `facts` notes which can be the case's time."""
    call = until_done(run, case["device"])
    if case["device"] == "cpu":
        facts["clocks"] = ["wall"]
        if case["slowdown"]:
            call = slowed(call, facts["seconds"], case["slowdown"])
        return {"wall": functools.partial(timed, call)}
    clocks, facts["no_graph"] = device_clocks(case, run)
    facts["clocks"] = list(clocks)
    if case["slowdown"]:
        clock = by_graph if "graph" in clocks else by_kernels
        run, every = slowed_on_device(run, case["slowdown"], clock, case["device"])
        clocks, call = device_clocks(case, run, every)[0], until_done(run, case["device"])
    return {**clocks, "wall": functools.partial(timed, call)}


def device_clocks(case, run, every=1):
    """The device's clocks by name, and why the replay of a graph is not among them.

    Args:
        every: calls differ, and only this many together do the average work.

    Raises:
        RuntimeError: there is no such clock.
    """
    import torch

    clocks = {"kernels": by_kernels(run, every)}
    if case["kind"] == "model" and case["backend"] != "eager" and case["mode"] in OWN_GRAPHS:
        obstacle = f"the mode {case['mode']} replays CUDA graphs of its own"
    else:
        try:
            return {"graph": by_graph(run, every), **clocks}, None
        except Exception as error:  # a failed capture raises many kinds of error
            torch.cuda.synchronize()
            obstacle = first_line(error)
    clocks["kernels"](1)  # may be refused, which should show now
    return clocks, obstacle


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
    import torch

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
    import torch

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
    return lambda wanted: [kernels(run, every * math.ceil(wanted / every))]


def kernels(run, calls):
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
    seen = [each for each in profiler.events() if each.device_type == DeviceType.CUDA and not each.is_user_annotation]
    if not seen:
        raise RuntimeError("torch.profiler saw no kernel: none ran, or NVIDIA's driver keeps CUPTI for administrators")
    return sum(each.time_range.elapsed_us() for each in seen) / 1e6 / calls


def slowed_on_device(run, share, clock, device, *, trials=8, tolerance=0.1):
    """The case with extra work on the device in one of several calls, and the number of those calls. The work is
    elementwise products whose size makes a call slower by that share, within a tenth of it, by that clock, here and
    now.

    Raises:
        RuntimeError: no size does so.
    """
    import torch

    x = torch.ones(2**24, device=device)
    turn = 20
    alone = clock(run)
    seconds = statistics.median(alone(turn))
    every = max(1, round(PRODUCT_SECONDS / (share * seconds)))
    product = statistics.median(clock(lambda: x.mul_(1.0))(turn))
    elements = share * seconds * every / product * x.numel()
    for _ in range(trials):
        both = with_products(run, x, round(elements), every)
        slower = statistics.median(clock(both, every)(turn)) / statistics.median(alone(turn)) - 1
        if abs(slower / share - 1) < tolerance:
            return both, every
        elements *= min(2.0, max(0.5, share / max(slower, 1e-9)))
    raise RuntimeError(f"extra work of {share:.0%} was asked for; what was inserted makes the case {slower:.1%} slower")


def with_products(run, x, elements, every):
    """The case with products of `elements` elements of x, one after the other, in one of `every` calls."""
    turns = itertools.cycle([True] + [False] * (every - 1))

    def both():
        run()
        if next(turns):
            for _ in range(elements // x.numel()):
                x.mul_(1.0)
            x[: elements % x.numel()].mul_(1.0)

    return both


def resident_peak():
    """The peak of the process's memory in bytes."""
    if sys.platform.startswith("linux"):  # where getrusage counts what the process had before it became Python
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    import resource  # Unix alone

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def first_line(error):
    return next(iter(str(error).splitlines()), "no message")


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what others print must not reach the driver
    os.environ["TEARDOWN_CUPTI"] = "0"  # after each turn, CUPTI's teardown would be slow and could crash CUDA graphs

    def answer(**facts):
        answers.write(json.dumps(facts) + "\n")

    import torch  # takes seconds, in which the other side's process does the same

    asked = json.loads(sys.stdin.readline())
    case = asked["case"]
    try:
        run, facts, exact = build(case)
        call = until_done(run, case["device"])
        if asked["timed"]:
            facts["seconds"] = warm(call)
        call()
        facts["exact"] = exact()  # recompilations would show by now
        if case["device"] == "cuda":  # what tensors take is the same each time; a process's memory is not
            torch.cuda.reset_peak_memory_stats()
            call()
            if not chosen_by_time(case):
                facts["exact"]["peak bytes"] = torch.cuda.max_memory_allocated()
        elif sys.platform != "win32":
            facts["peak_bytes"] = resident_peak()
        clocks = clocks_of(case, run, facts) if asked["timed"] else {}
    except Exception as error:
        answer(error=f"{type(error).__name__}: {first_line(error)}")
        return
    answer(ready=facts)
    for line in sys.stdin:
        turn = json.loads(line)
        call()  # since the last turn, another process has used the processor's caches
        answer(seconds=clocks[turn["clock"]](turn["calls"]))


if __name__ == "__main__":
    main()
