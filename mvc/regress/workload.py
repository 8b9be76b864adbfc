"""One case in a process of its own. The driver passes this file's text to `python -c`, so that it also measures
revisions older than itself: of mvc it uses the public functions alone.

Lines of JSON: {"case": fields, "timed": whether it will be} comes in; {"ready": facts} goes out. Then each
{"calls": n} is answered by {"seconds": [...]}, and the end of the input ends the process. A case that this mvc cannot
run is answered by {"error": why}.
"""

import json
import os
import statistics
import sys
import time


def build(case):
    """A callable of no arguments that runs the case once, facts about it, and a function that gives exact numbers."""
    import torch

    import mvc

    device, dtype = torch.device(case["device"]), getattr(torch, case["dtype"])
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch finds no CUDA device")
    torch.manual_seed(0)
    torch.set_grad_enabled(case["training"])
    run, facts, exact = (_scan if case["kind"] == "scan" else _model)(torch, mvc, case, device, dtype)
    facts["source"] = mvc.__file__
    if device.type == "cuda":
        return lambda: (run(), torch.cuda.synchronize()), facts, exact
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
    """Whether what is called depends on measurements: of library calls, frozen on a CPU, or of kernels."""
    return (case["frozen"] and case["device"] == "cpu") or case["mode"].startswith("max-autotune")


def _exact(report, by_time):
    """Numbers that do not vary from run to run; those of generated code are unknown where it came from a cache.

    Args:
        by_time: leave out what depends on measurements.
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


def timed(run, calls):
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def warm(run, *, window=5, tolerance=0.05, limit=20.0):
    """Run until the median of the last calls is within the tolerance of that of those before; the last median."""
    started, last = time.perf_counter(), statistics.median(timed(run, window))
    while True:
        now = statistics.median(timed(run, window))
        if abs(now / last - 1) < tolerance or time.perf_counter() - started > limit:
            return now
        last = now


def slowed(run, seconds, share, *, trials=3, trial_seconds=1.0):
    """The same with extra work: as many elementwise products as make it slower by that share, here and now.

    What a product takes behind a short case is not what it takes alone: there a first guess is mended by timing both,
    call by call in turns.
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


def resident_peak():
    """Bytes of memory that the process has had at most."""
    if sys.platform.startswith("linux"):  # where getrusage counts what the process had before it became Python
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    import resource  # Unix alone

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what others print must not reach the driver

    def answer(**facts):
        answers.write(json.dumps(facts) + "\n")

    asked = json.loads(sys.stdin.readline())
    case = asked["case"]
    try:
        run, facts, exact = build(case)
        if asked["timed"]:
            facts["seconds"] = warm(run)
        if asked["timed"] and case["slowdown"]:
            run = slowed(run, facts["seconds"], case["slowdown"])
        import torch

        run()
        facts["exact"] = exact()  # recompilations would show by now
        if case["device"] == "cuda":  # what tensors take is the same each time; a process's memory is not
            torch.cuda.reset_peak_memory_stats()
            run()
            if not chosen_by_time(case):
                facts["exact"]["peak bytes"] = torch.cuda.max_memory_allocated()
        elif sys.platform != "win32":
            facts["peak_bytes"] = resident_peak()
    except Exception as error:
        answer(error=f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no message')}")
        return
    answer(ready=facts)
    for line in sys.stdin:
        run()  # its caches and threads have been another process's since the last turn
        answer(seconds=timed(run, json.loads(line)["calls"]))


if __name__ == "__main__":
    main()
