"""mvc's own cases, by its public functions: a model, or the scan. Beside older sources this is an older mvc."""

import time

import torch

from .built import Built, own_graphs


def build(case):
    import mvc

    device, dtype = torch.device(case["device"]), getattr(torch, case["dtype"])
    torch.manual_seed(0)
    torch.set_grad_enabled(case["training"])
    built = (_scan if case["kind"] == "scan" else _model)(mvc, case, device, dtype)
    built.facts["source"] = mvc.__file__
    return built


def _model(mvc, case, device, dtype):
    changes = {"drop_path_rate": 0.0} if case["training"] else {}
    model = mvc.create_model(case["variant"], device=device, dtype=dtype, **changes).train(case["training"])
    side = case["size"] or model.config.image_size
    x = torch.randn(case["batch"], model.config.in_chans, side, side).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    compiled, facts, exact, no_graph = model, {}, dict, None
    if case["backend"] != "eager":
        options = {"options": {"frozen": True}} if case["frozen"] else {}  # the first mvc had none
        start = time.perf_counter()
        compiled, report = mvc.compile_model(model, x, backend=case["backend"], mode=case["mode"], **options)
        facts["compile_seconds"] = time.perf_counter() - start
        exact, no_graph = lambda: _exact(report, _chosen_by_time(case)), own_graphs(case["mode"])
    if case["training"]:
        parameters = list(model.parameters())
        run = lambda: torch.autograd.grad(compiled(x).float().sum(), parameters)  # noqa: E731
    else:
        run = lambda: compiled(x)  # noqa: E731
    by_time, hidden = _chosen_by_time(case), compiled is not model and device.type == "cuda"
    return Built(run, facts, exact, chosen_by_time=by_time, no_graph=no_graph, hidden=hidden)


def _chosen_by_time(case):
    """Whether measurements choose what runs: among library calls where frozen on a CPU, or among kernels."""
    return (case["frozen"] and case["device"] == "cpu") or case["mode"].startswith("max-autotune")


def _exact(report, by_time):
    """Numbers that do not vary from run to run; those of generated code are unknown where it came from a cache, and so
    is what an older mvc does not report.

    Args:
        by_time: leave out numbers that depend on measurements.
    """
    explanation = getattr(report, "explanation", None)
    known = {"graphs": len(report.graphs), "scans": getattr(report, "scans", None)}
    exact = {name: number for name, number in known.items() if number is not None}
    launches = getattr(explanation, "launches", None)
    if launches and not by_time:
        exact["launches"] = sum(launches.values())
    for graph in getattr(explanation, "graphs", ()):
        for record in graph.passes:
            if by_time and record.name.startswith("prepack_"):
                continue
            name = f"matches of {record.name}"
            exact[name] = exact.get(name, 0) + record.matches
    return exact


def _scan(mvc, case, device, dtype):
    shape, states = (case["batch"], case["length"], case["dim"]), case["states"]
    u, delta = torch.randn(2, *shape).to(device, dtype)
    B, C = torch.randn(2, *shape[:2], states).to(device, dtype)
    A, D = -torch.rand(shape[2], states, device=device), torch.rand(shape[2]).to(device, dtype)
    inputs = (u, delta, A, B, C)
    if not case["training"]:
        return Built(lambda: mvc.selective_scan(*inputs, D=D, delta_softplus=True), {}, dict)
    leaves = [each.detach().requires_grad_() for each in inputs]

    def step():
        y = mvc.selective_scan(*leaves, D=D, delta_softplus=True)
        return torch.autograd.grad(y.float().sum(), leaves)

    return Built(step, {}, dict)
