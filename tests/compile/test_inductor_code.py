"""The code that Inductor generates: which launches it has, and the steps of the schedule that they run."""

import contextlib

import pytest
import torch

from mvc.compile.explanation import kernel_bytes
from mvc.compile.inductor_code import GraphCode, Step, generated_code, launches, paired

pytestmark = pytest.mark.versions


def seen(function, *arguments, backward=False, **options):
    """The code of a function and of its backward."""
    codes = []
    torch.compiler.reset()
    with generated_code(codes.append):
        y = torch.compile(function, options={"fx_graph_cache": False, **options})(*arguments)
        if backward:
            y.sum().backward()
    return codes


def facts(step):
    return step.kind, step.bytes


def test_loops_between_library_calls_are_one_step_each_with_their_bytes():
    x, weight = torch.randn(64, 256), torch.randn(256, 128)
    (code,) = seen(lambda x, w: ((x + 1) @ (w * 2)).relu(), x, weight)
    pairs = paired(launches(code.wrapper), code.steps)
    assert [name.startswith("cpp_fused") for name, _ in pairs] == [True, False, True]
    assert [facts(step) for _, step in pairs] == [
        ("generated", 2 * 4 * (x.numel() + weight.numel())),
        ("library", 4 * (x.numel() + weight.numel() + 64 * 128)),
        ("generated", 2 * 4 * 64 * 128),
    ]
    assert [len(step.nodes) for _, step in pairs] == [2, 1, 1], "two loops in one C++ kernel"


def test_what_runs_nothing_is_no_step():
    """A concatenation in place, and the results of a call that has several."""

    def run(x):
        values, places = x.sort()
        return torch.cat((x.sin(), values)), places

    (code,) = seen(run, torch.randn(64, 4))
    assert launches(code.wrapper) == [step.name for step in code.steps]
    assert [step.kind for step in code.steps].count("library") == 1


def test_a_backward_has_code_of_its_own():
    x = torch.randn(64, 256, requires_grad=True)
    forward, backward = seen(lambda x: x.sin().exp(), x, backward=True)
    for code in (forward, backward):
        ((name, step),) = paired(launches(code.wrapper), code.steps)
        assert name == step.name
        assert step.bytes >= 2 * x.nbytes


def test_code_from_a_cache_has_no_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    options = {"fx_graph_cache": True}
    x = torch.randn(64)
    (written,), (cached,) = (seen(lambda x: x.sin() + 3, x, **options) for _ in range(2))
    assert cached.steps is cached.graph is None
    assert launches(cached.wrapper) == [step.name for step in written.steps]


STEPS = [Step("generated", name, (), 8) for name in ("cpp_a", "cpp_b")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cpp_a"], "1 launches for 2 steps"),
        (["cpp_a", "cpp_b", "cpp_b"], "3 launches for 2 steps"),
        (["cpp_b", "cpp_a"], "a launch of cpp_b where the schedule has cpp_a"),
        (["cpp_a", "extern_kernels.mm"], "a launch of extern_kernels.mm where the schedule has cpp_b"),
    ],
)
def test_launches_that_are_not_the_schedules_are_refused(names, message):
    assert paired(["cpp_a", "cpp_b"], STEPS) == list(zip(["cpp_a", "cpp_b"], STEPS, strict=True))
    with pytest.raises(ValueError, match=message):
        paired(names, STEPS)


def steps(*each):
    kinds = {"8": "generated", "100": "library", "50": "given"}
    return [Step(kinds[size], name, (), int(size)) for name, size in (text.split("=") for text in each)]


@pytest.mark.parametrize(
    ("graphs", "expected"),
    [
        (
            [("cpp_a extern_kernels.mm cpp_b", steps("cpp_a=8", "extern_kernels.mm=100", "cpp_b=8"))],
            {"cpp_a": 8, "cpp_b": 8},
        ),
        (
            [("triton_a.run triton_b.run triton_a.run", steps("triton_a=8", "triton_b=8", "triton_a=8"))],
            {"triton_a": 16, "triton_b": 8},
        ),
        ([("triton_a.run scan.run", steps("triton_a=8", "scan=50"))], {"triton_a": 8, "scan": None}),
        ([("cpp_a", steps("cpp_a=8")), ("cpp_a", steps("cpp_a=8"))], {"cpp_a": 16}),
        ([("cpp_a cpp_b", steps("cpp_a=8", "cpp_b=8")), ("cpp_a", None)], {"cpp_a": None, "cpp_b": 8}),
        ([("cpp_a", None), ("cpp_a", steps("cpp_a=8"))], {"cpp_a": None}),
        ([("triton_a.run", steps("triton_a=8", "triton_a=8"))], {"triton_a": None}),
        ([("cpp_a cpp_b", steps("cpp_a=8", "cpp_b=8", "cpp_b=8"))], {"cpp_a": None, "cpp_b": None}),
        ([("cpp_a extern_kernels.mm", steps("extern_kernels.mm=100", "cpp_a=8"))], {"cpp_a": None}),
        (
            [("cpp_a extern_kernels.mm cpp_b", steps("cpp_a=8", "extern_kernels.mm=100"))],
            {"cpp_a": None, "cpp_b": None},
        ),
    ],
)
def test_launches_take_the_bytes_of_their_steps_or_none(graphs, expected, monkeypatch):
    @contextlib.contextmanager
    def generated_code(observe):
        for names, found in graphs:
            lines = ["def call(self, args):", *(f"    {name}(buf0)" for name in names.split())]
            observe(GraphCode("\n".join(lines), found, None))
        yield

    monkeypatch.setattr("mvc.compile.inductor_code.generated_code", generated_code)
    with kernel_bytes() as kernels:
        assert kernels == expected
