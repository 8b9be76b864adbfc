"""The scan's ops: their registrations, autograd, autocast, FLOPs and torch.func, whichever implementation runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scan_cases import (
    ALL_OPTIONS,
    DIFFERENTIABLE,
    FORMS,
    TENSORS,
    Case,
    Inputs,
    chunked as scan,
    implementation,
    largest,
    make_inputs,
    map_tensors,
    op_arguments,
    require_cpp,
    run,
    tensors_of,
)
from torch import Tensor
from torch.func import grad, jacrev, vmap
from torch.utils.flop_counter import FlopCounterMode

from mvc.kernels.schemas import op

# As C++ has it too, which defines its ops by itself.
SCHEMA = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state, Tensor? reset, bool delta_softplus, bool reverse"
)
FAMILIES = ("selective_scan", "selective_scan_chunked", "selective_scan_cpu")

# The sums of the same numbers in another order, in float64.
REORDERED = {"rtol": 1e-11, "atol": 1e-11}


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    """The name of an op that this machine's CPU can run."""
    require_cpp(request.param == "selective_scan_cpu")
    return request.param


def through(family: str) -> Callable:
    return lambda **inputs: op(family)(*op_arguments(inputs))


def permuted(tensor: Tensor) -> Tensor:
    """The same numbers in dense memory, axes in the other order."""
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor


SMALL = Case(length=5, dim=4, states=3, groups=2)
ALL = (*ALL_OPTIONS, *FORMS)


def opcheck_inputs() -> dict[str, Inputs]:
    mixed = make_inputs(SMALL) | {"u": make_inputs(SMALL, torch.bfloat16)["u"]}
    mixed |= {name: make_inputs(SMALL, torch.float16)[name] for name in ("B", "D")}
    options = ((), *((name,) for name in ALL), ("delta_bias", "softplus"), ALL)
    return {
        **{str(dtype)[6:]: make_inputs(SMALL, dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16)},
        "mixed": mixed,
        **{"+".join(names) or "plain": make_inputs(SMALL._replace(options=names)) for names in options},
        "permuted": map_tensors(permuted, make_inputs(SMALL)),
        "permuted-reverse": map_tensors(permuted, make_inputs(SMALL.plus("reverse"), torch.bfloat16)),
        "empty": make_inputs(SMALL._replace(length=0)),
    }


OPCHECK_INPUTS = opcheck_inputs()


@pytest.fixture(params=OPCHECK_INPUTS)
def case(request, family) -> Inputs:
    if request.param == "float64" and family == "selective_scan_cpu":
        pytest.skip("the C++ scan takes no float64")
    return map_tensors(lambda tensor: tensor.detach(), OPCHECK_INPUTS[request.param])


@pytest.mark.versions
def test_opcheck(case, family):
    inputs = map_tensors(Tensor.requires_grad_, case)
    torch.library.opcheck(op(family), op_arguments(inputs))


@pytest.mark.versions
def test_opcheck_backward(case, family):
    """Its own derivative is refused, so there is none to check."""
    arguments = op_arguments(case)
    grads = tuple(torch.randn_like(output) for output in op(family)(*arguments))
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    torch.library.opcheck(op(family, backward=True), (*grads, *arguments), test_utils=tests)


def test_fakes_have_the_real_layout(case, family):
    """Dense outputs even for permuted inputs, in the dtypes that the kernels give."""
    arguments = op_arguments(case)
    outputs = op(family)(*arguments)
    results = (*outputs, *op(family, backward=True)(*outputs, *arguments))
    on_meta = [t.to("meta") if isinstance(t, Tensor) else t for t in arguments]
    meta_outputs = op(family)(*on_meta)
    meta_results = (*meta_outputs, *op(family, backward=True)(*meta_outputs, *on_meta))
    for index, (real, fake) in enumerate(zip(results, meta_results, strict=True)):
        assert (real.shape, real.dtype, real.stride()) == (fake.shape, fake.dtype, fake.stride()), index


@pytest.mark.versions
def test_every_family_has_one_schema(family):
    def arguments(schema: str) -> str:
        return schema.split("(", 1)[1].rsplit(" -> ", 1)[0]

    assert arguments(str(op(family)._schema)) == f"{SCHEMA})"
    assert arguments(str(op(family, backward=True)._schema)) == f"Tensor grad_y, Tensor grad_last_state, {SCHEMA})"


# Differ in one thing from what fits Case(), whose inputs are (2, 7, 6) with 8 states.
NONSENSE = {
    "u": [(7, 6), (2, 7, 6, 1)],
    "delta": [(2, 7, 1), (1, 7, 6), (2, 1, 6), (7, 6)],
    "A": [(6,), (1, 8), (6, 0), (6, 257)],
    "B": [(2, 7, 8), (2, 7, 4, 8), (2, 7, 0, 8), (1, 7, 1, 8), (2, 7, 1, 1), (6, 1), (8,)],
    "C": [(2, 7, 8), (2, 7, 2, 8), (2, 1, 1, 8), (1, 8)],
    "D": [(1,), (), (6, 1)],
    "z": [(2, 7, 1), (1, 7, 6)],
    "delta_bias": [(1,), (7,)],
    "initial_state": [(1, 6, 8), (2, 6, 1), (2, 8, 6)],
    "reset": [(2, 1), (1, 7), (7,), (2, 7, 1)],
}  # fmt: skip


@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in NONSENSE for shape in NONSENSE[name]], ids=str)
def test_nonsense_is_refused_by_the_bare_op(name, shape, family):
    """Neither a crash nor a broadcast."""
    inputs = make_inputs(Case())
    wrong = op_arguments(inputs | {name: torch.zeros(shape, dtype=inputs[name].dtype)})
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        op(family)(*wrong)
    outputs = (torch.zeros(2, 7, 6), torch.zeros(2, 6, 8))
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        op(family, backward=True)(*outputs, *wrong)


@pytest.mark.parametrize(
    ("grad_y", "grad_last_state", "name"),
    [((2, 7, 1), (2, 6, 8), "grad_y"), ((2, 7, 6), (1, 6, 8), "grad_last_state"), ((1, 7, 6), (2, 6, 8), "grad_y")],
)
def test_gradients_of_another_shape_are_refused_by_the_bare_op(grad_y, grad_last_state, name, family):
    with pytest.raises(ValueError, match=name):
        op(family, backward=True)(torch.zeros(grad_y), torch.zeros(grad_last_state), *op_arguments(make_inputs(Case())))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float64], ids=str)
@pytest.mark.parametrize("name", TENSORS)
def test_wrong_dtype_is_refused_by_the_bare_op(name, dtype, family):
    if dtype == torch.float64 and name == "u" and family != "selective_scan_cpu":
        pytest.skip(f"{family} takes {name} in float64")
    inputs = make_inputs(Case())
    with pytest.raises((ValueError, TypeError), match=rf"\b{name}\b"):
        op(family)(*op_arguments(inputs | {name: inputs[name].to(dtype)}))


@pytest.mark.versions
@pytest.mark.parametrize(
    "options", [(), ALL_OPTIONS, ("reset", "initial_state", *FORMS)], ids=["plain", "all", "forms"]
)
def test_gradcheck(options):
    inputs = make_inputs(Case(batch=1, length=4, dim=2, states=2, groups=2, options=options), torch.float64)
    names = tuple(name for name in DIFFERENTIABLE if name in inputs)

    def outputs(*tensors):
        return op("selective_scan")(*op_arguments(inputs | dict(zip(names, tensors, strict=True))))

    assert torch.autograd.gradcheck(outputs, tuple(inputs[name].requires_grad_() for name in names))


def test_reset_has_no_gradient(family):
    inputs = map_tensors(Tensor.requires_grad_, make_inputs(Case()))
    y, last_state = through(family)(**inputs)
    (y.sum() + last_state.sum()).backward()
    assert inputs["reset"].grad is None


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_of_one_input_alone(name):
    inputs = make_inputs(Case(length=5, groups=2), torch.float64)
    expected = run(scan, inputs)[f"gradient of {name}"]
    leaf = inputs[name].clone().requires_grad_()
    y, last_state = scan(**(inputs | {name: leaf}))
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(t.shape, generator=generator).bfloat16().double() for t in (y, last_state)]
    (actual,) = torch.autograd.grad((y, last_state), leaf, grads)
    assert torch.equal(actual, expected)


def test_gradient_through_one_output_alone():
    inputs = map_tensors(Tensor.requires_grad_, make_inputs(Case(length=5), torch.float64))
    leaves = tuple(inputs[name] for name in DIFFERENTIABLE)
    y, last_state = scan(**inputs)
    both = [
        torch.autograd.grad(output.sum(), leaves, retain_graph=True, materialize_grads=True)
        for output in (y, last_state)
    ]
    together = torch.autograd.grad(y.sum() + last_state.sum(), leaves)
    for name, through_y, through_state, expected in zip(DIFFERENTIABLE, *both, together, strict=True):
        torch.testing.assert_close(through_y + through_state, expected, msg=lambda m, n=name: f"{n}: {m}", **REORDERED)


@pytest.mark.parametrize("form", ["expanded", "transposed"])
def test_gradients_of_y_in_any_strides(form, family):
    inputs = map_tensors(Tensor.requires_grad_, make_inputs(Case(length=19, groups=2)))
    leaves = [inputs[name] for name in DIFFERENTIABLE]
    y, _ = through(family)(**inputs)
    given = torch.ones(()).expand(y.shape) if form == "expanded" else permuted(torch.randn_like(y))
    actual, expected = (torch.autograd.grad(y, leaves, g, retain_graph=True) for g in (given, given.contiguous()))
    for name, gradient, of_contiguous in zip(DIFFERENTIABLE, actual, expected, strict=True):
        rounding = 16 * torch.finfo(torch.float32).eps * largest(of_contiguous)  # sums may run in another order
        torch.testing.assert_close(gradient, of_contiguous, rtol=0, atol=rounding, msg=lambda m, n=name: f"{n}: {m}")
        assert gradient.is_contiguous(), name


@pytest.mark.versions
@pytest.mark.filterwarnings("error")
def test_double_backward_is_refused(family):
    inputs = map_tensors(Tensor.requires_grad_, make_inputs(Case(length=5)))
    y, _ = through(family)(**inputs)
    with pytest.raises(RuntimeError, match="can be differentiated once, not twice"):
        torch.autograd.grad(torch.autograd.grad(y.sum(), inputs["u"], create_graph=True)[0].sum(), inputs["delta"])


@pytest.mark.parametrize(
    "case", [Case(length=63, groups=2), Case(1, 600, 64, 16).plus("reverse", "constant_B")], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_in_every_run(case, dtype, family):
    inputs = make_inputs(case, dtype)
    first, second = (run(through(family), inputs) for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.versions
@pytest.mark.filterwarnings("error")
def test_second_derivative_by_torch_func_is_refused():
    inputs = make_inputs(Case(length=5), torch.float64)
    first = grad(lambda u: scan(**(inputs | {"u": u}))[0].square().sum())
    with pytest.raises(RuntimeError, match=r"selective_scan.*(twice|second|double)"):
        grad(lambda u: first(u).sum())(inputs["u"])


LOWERED = ("u", "delta", "B", "C", "z")  # by autocast


def lowered_to(dtype: torch.dtype, scan: Callable) -> Callable:
    """What autocast does, by hand; gradients still come back in the dtypes of the inputs."""
    return lambda **inputs: scan(**(inputs | {name: inputs[name].to(dtype) for name in LOWERED if name in inputs}))


@pytest.mark.parametrize("options", [(), (*ALL_OPTIONS, *FORMS)], ids=["plain", "all"])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_lowers_sequences_alone(dtype, given, options, family):
    """A, D, delta_bias and states stay as they are, and so do the sums: autocast is off inside."""
    inputs = make_inputs(Case(length=19, groups=2, options=options), given)
    expected = run(lowered_to(dtype, through(family)), inputs)
    with torch.autocast("cpu", dtype):
        actual = run(through(family), inputs)
    assert actual["y"].dtype == dtype
    assert actual["last state"].dtype == torch.float32
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name
    for name in DIFFERENTIABLE:
        if name in inputs:
            assert actual[f"gradient of {name}"].dtype == inputs[name].dtype, name


@pytest.mark.versions
@pytest.mark.parametrize("impl", [None, "reference", "chunked", "cpp"])
def test_autocast_of_the_public_function(impl):
    inputs = make_inputs(Case(length=19, groups=2))
    expected = run(lowered_to(torch.bfloat16, implementation(impl)), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = run(implementation(impl), inputs)
    for name in expected:
        assert actual[name].dtype == expected[name].dtype, name
        assert torch.equal(actual[name], expected[name]), name


def test_autocast_leaves_float64():
    inputs = make_inputs(Case(length=19, groups=2), torch.float64)
    expected = run(scan, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = run(scan, inputs)
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name


@pytest.mark.versions
def test_flops(family):
    """7 and 19 for each step, channel and state, counted once however the op is routed."""
    inputs = map_tensors(Tensor.requires_grad_, make_inputs(Case(2, 5, 6, 3)))
    with FlopCounterMode(display=False) as counter:
        y, _ = through(family)(**inputs)
    assert counter.get_total_flops() == 7 * 2 * 5 * 6 * 3
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 19 * 2 * 5 * 6 * 3


@pytest.mark.parametrize("forms", [(), FORMS], ids=["", "forms"])
def test_uninitialised_memory_is_not_read(forms, family):
    """Deterministic mode fills what torch.empty gives with NaN."""
    inputs = make_inputs(Case(length=19, groups=2).plus(*forms))
    expected = run(through(family), inputs)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(4).isnan().all()
        actual = run(through(family), inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name


def test_inputs_are_not_written_to(family):
    inputs = make_inputs(Case(length=19, groups=2))
    before = inputs | {name: tensor.clone() for name, tensor in tensors_of(inputs).items()}
    run(through(family), inputs)
    for name, tensor in tensors_of(inputs).items():
        assert torch.equal(tensor, before[name]), name


MAPPED = {name: (name,) for name in TENSORS} | {
    "all": TENSORS,
    "differentiable": DIFFERENTIABLE,
    "B+C": ("B", "C"),
    "parameters": ("A", "D", "delta_bias"),
}
# Forms of the inputs, beside every option; whether B and C are constant decides where vmap puts their mapped axis.
WEIGHTS = {"grouped": (), "constant": ("constant_B", "constant_C", "reverse"), "constant-B": ("constant_B",)}


def mapped_inputs(
    names: tuple[str, ...], position: int, forms: tuple[str, ...] = ()
) -> tuple[Inputs, dict[str, int | None]]:
    """Three versions of each tensor in `names`, along an axis at `position` (-1: the last)."""
    case = Case(length=5, groups=2).plus(*forms)
    versions = [make_inputs(case, torch.float64, seed) for seed in range(3)]
    stacked = {name: torch.stack([version[name] for version in versions], position) for name in names}
    return versions[0] | stacked, dict.fromkeys(TENSORS) | dict.fromkeys(names, position)


def version_of(inputs: Inputs, in_dims: dict[str, int | None], index: int) -> Inputs:
    return {
        name: value if in_dims.get(name) is None else value.select(in_dims[name], index)
        for name, value in inputs.items()
    }


def assert_mapped(actual: dict[str, Tensor], versions: list[dict[str, Tensor]]) -> None:
    for name, result in actual.items():
        expected = torch.stack([version[name] for version in versions])
        torch.testing.assert_close(result, expected, msg=lambda message, n=name: f"{n}: {message}", **REORDERED)


@pytest.mark.parametrize("position", [0, 1, -1])
@pytest.mark.parametrize("names", MAPPED.values(), ids=MAPPED)
@pytest.mark.parametrize("forms", WEIGHTS.values(), ids=WEIGHTS)
def test_vmap(forms, names, position):
    inputs, in_dims = mapped_inputs(names, position, forms)
    tensors = {name: inputs[name] for name in TENSORS}

    def forward(tensors):
        return dict(zip(("y", "last state"), scan(**(inputs | tensors)), strict=True))

    actual = vmap(forward, in_dims=(in_dims,))(tensors)
    assert_mapped(actual, [forward(version_of(tensors, in_dims, index)) for index in range(3)])


def loss(tensors: dict[str, Tensor], reset: Tensor, reverse: bool = False) -> Tensor:
    y, last_state = scan(**tensors, reset=reset, delta_softplus=True, reverse=reverse)
    return (y.sin() * torch.arange(y.shape[1]).unsqueeze(1)).sum() + last_state.square().sum()


def split(inputs: Inputs) -> tuple[dict[str, Tensor], Tensor, bool]:
    """The arguments of `loss`; it is differentiated by the first."""
    return {name: inputs[name] for name in DIFFERENTIABLE}, inputs["reset"], inputs["reverse"]


def autograd_of_loss(inputs: Inputs) -> dict[str, Tensor]:
    tensors, *others = split(inputs)
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves, *others), leaves.values()), strict=True))


@pytest.mark.versions
@pytest.mark.parametrize("forms", WEIGHTS.values(), ids=WEIGHTS)
def test_grad(forms):
    inputs = make_inputs(Case(length=5, groups=2).plus(*forms), torch.float64)
    expected = autograd_of_loss(inputs)
    for name, gradient in grad(loss)(*split(inputs)).items():
        assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize(
    "names", [("u",), ("A", "D"), ("B",), ("reset",), TENSORS], ids=["u", "A+D", "B", "reset", "all"]
)
@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("forms", WEIGHTS.values(), ids=WEIGHTS)
def test_vmap_of_grad(forms, names, position):
    """Gradients for each sample, also of tensors that the samples share."""
    inputs, in_dims = mapped_inputs(names, position, forms)
    axes = ({name: in_dims[name] for name in DIFFERENTIABLE}, in_dims["reset"], None)
    actual = vmap(grad(loss), in_dims=axes)(*split(inputs))
    assert_mapped(actual, [autograd_of_loss(version_of(inputs, in_dims, index)) for index in range(3)])


@pytest.mark.versions
def test_grad_of_vmap():
    inputs, in_dims = mapped_inputs(TENSORS, 0)
    tensors, reset, _ = split(inputs)
    actual = grad(lambda tensors: vmap(loss)(tensors, reset).sum())(tensors)
    assert_mapped(actual, [autograd_of_loss(version_of(inputs, in_dims, index)) for index in range(3)])


@pytest.mark.versions
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_jacrev(name):
    inputs = make_inputs(Case(batch=1, length=3, dim=2, states=2, groups=2), torch.float64)

    def y(tensor):
        return scan(**(inputs | {name: tensor}))[0]

    torch.testing.assert_close(
        jacrev(y)(inputs[name]), torch.autograd.functional.jacobian(y, inputs[name]), **REORDERED
    )


@pytest.mark.versions
def test_vmap_of_vmap():
    inputs = make_inputs(Case(length=5, groups=2), torch.float64)
    grid = torch.stack([torch.stack([inputs["u"] * (i + 2 * j) for i in range(2)]) for j in range(3)])
    y = vmap(vmap(lambda u: scan(**(inputs | {"u": u}))[0]))(grid)
    for j in range(3):
        for i in range(2):
            torch.testing.assert_close(y[j, i], scan(**(inputs | {"u": grid[j, i]}))[0], **REORDERED)
