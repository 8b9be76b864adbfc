"""`torch.ops.mvc.selective_scan`: its registrations, autograd, autocast and torch.func."""

from __future__ import annotations

import pytest
import torch
from mvc.kernels import ops
from scan_cases import TENSORS, Case, Inputs, chunked as scan, make_inputs, map_tensors, op_arguments, run, tensors_of
from torch import Tensor
from torch.func import grad, jacrev, vmap

OP = torch.ops.mvc.selective_scan.default
BACKWARD = torch.ops.mvc.selective_scan_backward.default

# The sums of the same numbers in another order, in float64.
REORDERED = {"rtol": 1e-11, "atol": 1e-11}


def permuted(tensor: Tensor) -> Tensor:
    """The same numbers in dense memory, axes in the other order."""
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor


def opcheck_inputs() -> dict[str, Inputs]:
    case = Case(length=5, dim=4, states=3, groups=2)
    mixed = make_inputs(case, torch.bfloat16)
    mixed |= {name: make_inputs(case)[name] for name in ("A", "D", "delta_bias", "initial_state")}
    return {
        "float64": make_inputs(case, torch.float64),
        "float16": make_inputs(case, torch.float16),
        "mixed": mixed,
        "plain": make_inputs(case._replace(options=())),
        "z": make_inputs(case._replace(options=("z",))),
        "delta_bias+softplus": make_inputs(case._replace(options=("delta_bias", "softplus"))),
        "D+initial_state": make_inputs(case._replace(options=("D", "initial_state"))),
        "permuted": map_tensors(permuted, make_inputs(case)),
        "empty": make_inputs(case._replace(length=0)),
    }


@pytest.mark.parametrize("name", opcheck_inputs())
def test_opcheck(name):
    inputs = map_tensors(Tensor.requires_grad_, opcheck_inputs()[name])
    torch.library.opcheck(OP, op_arguments(inputs))


@pytest.mark.parametrize("name", opcheck_inputs())
def test_opcheck_backward(name):
    arguments = op_arguments(opcheck_inputs()[name])
    grads = tuple(torch.randn_like(output) for output in OP(*arguments))
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(BACKWARD, (*grads, *arguments), test_utils=tests)


@pytest.mark.parametrize("name", opcheck_inputs())
def test_fakes_have_the_real_layout(name):
    """Dense outputs even for permuted inputs, in the dtypes that the kernels give."""
    arguments = op_arguments(opcheck_inputs()[name])
    outputs = OP(*arguments)
    results = (*outputs, *BACKWARD(*outputs, *arguments))
    on_meta = [t.to("meta") if isinstance(t, Tensor) else t for t in arguments]
    meta_outputs = OP(*on_meta)
    meta_results = (*meta_outputs, *BACKWARD(*meta_outputs, *on_meta))
    for index, (real, fake) in enumerate(zip(results, meta_results, strict=True)):
        assert (real.shape, real.dtype, real.stride()) == (fake.shape, fake.dtype, fake.stride()), index


@pytest.mark.parametrize("options", [(), ("D", "z", "delta_bias", "initial_state", "softplus")], ids=["plain", "all"])
def test_gradcheck(options):
    inputs = make_inputs(Case(batch=1, length=4, dim=2, states=2, groups=2, options=options), torch.float64)
    names = tuple(tensors_of(map_tensors(Tensor.requires_grad_, inputs)))

    def outputs(*tensors):
        return OP(*op_arguments(inputs | dict(zip(names, tensors, strict=True))))

    assert torch.autograd.gradcheck(outputs, tuple(tensors_of(inputs).values()))


@pytest.mark.parametrize("name", TENSORS)
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
    leaves = tuple(tensors_of(inputs).values())
    y, last_state = scan(**inputs)
    both = [
        torch.autograd.grad(output.sum(), leaves, retain_graph=True, materialize_grads=True)
        for output in (y, last_state)
    ]
    together = torch.autograd.grad(y.sum() + last_state.sum(), leaves)
    for name, through_y, through_state, expected in zip(tensors_of(inputs), *both, together, strict=True):
        torch.testing.assert_close(through_y + through_state, expected, msg=lambda m, n=name: f"{n}: {m}", **REORDERED)


@pytest.mark.filterwarnings("error")
def test_double_backward_is_refused():
    inputs = map_tensors(Tensor.requires_grad_, make_inputs(Case(length=5), torch.float64))
    y, _ = scan(**inputs)
    with pytest.raises(RuntimeError, match=r"selective_scan.*(twice|second|double)"):
        torch.autograd.grad(torch.autograd.grad(y.sum(), inputs["u"], create_graph=True)[0].sum(), inputs["delta"])


@pytest.mark.filterwarnings("error")
def test_second_derivative_by_torch_func_is_refused():
    inputs = make_inputs(Case(length=5), torch.float64)
    first = grad(lambda u: scan(**(inputs | {"u": u}))[0].square().sum())
    with pytest.raises(RuntimeError, match=r"selective_scan.*(twice|second|double)"):
        grad(lambda u: first(u).sum())(inputs["u"])


def test_forward_mode_is_refused():
    inputs = make_inputs(Case(length=5), torch.float64)
    with pytest.raises((RuntimeError, NotImplementedError), match="forward"):
        torch.func.jvp(lambda u: scan(**(inputs | {"u": u})), (inputs["u"],), (inputs["u"],))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_does_not_round_the_states(dtype):
    inputs = make_inputs(Case(length=19, groups=2), dtype)
    expected = run(scan, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = run(scan, inputs)
    for name in expected:
        assert actual[name].dtype == expected[name].dtype, name
        assert torch.equal(actual[name], expected[name]), name


def test_uninitialised_memory_is_not_read():
    """Deterministic mode fills what torch.empty gives with NaN."""
    inputs = make_inputs(Case(length=19, groups=2))
    expected = run(scan, inputs)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        assert torch.empty(4).isnan().all()
        actual = run(scan, inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name


def test_inputs_are_not_written_to():
    inputs = make_inputs(Case(length=19, groups=2))
    before = map_tensors(Tensor.clone, inputs)
    run(scan, inputs)
    for name, tensor in tensors_of(inputs).items():
        assert torch.equal(tensor, before[name]), name


MAPPED = {name: (name,) for name in TENSORS} | {
    "all": TENSORS,
    "B+C": ("B", "C"),
    "parameters": ("A", "D", "delta_bias"),
}


def mapped_inputs(names: tuple[str, ...], position: int) -> tuple[Inputs, dict[str, int | None]]:
    """Three versions of each tensor in `names`, along an axis at `position` (-1: the last)."""
    versions = [make_inputs(Case(length=5, groups=2), torch.float64, seed) for seed in range(3)]
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
def test_vmap(names, position):
    inputs, in_dims = mapped_inputs(names, position)
    tensors = {name: inputs[name] for name in TENSORS}

    def forward(tensors):
        return dict(zip(("y", "last state"), scan(**(inputs | tensors)), strict=True))

    actual = vmap(forward, in_dims=(in_dims,))(tensors)
    assert_mapped(actual, [forward(version_of(tensors, in_dims, index)) for index in range(3)])


def loss(tensors: dict[str, Tensor]) -> Tensor:
    y, last_state = scan(**tensors, delta_softplus=True)
    return (y.sin() * torch.arange(y.shape[1]).unsqueeze(1)).sum() + last_state.square().sum()


def autograd_of_loss(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    return dict(zip(leaves, torch.autograd.grad(loss(leaves), leaves.values()), strict=True))


def test_grad():
    tensors = tensors_of(make_inputs(Case(length=5, groups=2), torch.float64))
    expected = autograd_of_loss(tensors)
    for name, gradient in grad(loss)(tensors).items():
        assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize("names", [("u",), ("A", "D"), TENSORS], ids=["u", "A+D", "all"])
@pytest.mark.parametrize("position", [0, -1])
def test_vmap_of_grad(names, position):
    """Gradients for each sample, also of tensors that the samples share."""
    inputs, in_dims = mapped_inputs(names, position)
    tensors = {name: inputs[name] for name in TENSORS}
    actual = vmap(grad(loss), in_dims=(in_dims,))(tensors)
    assert_mapped(actual, [autograd_of_loss(version_of(tensors, in_dims, index)) for index in range(3)])


def test_grad_of_vmap():
    inputs, in_dims = mapped_inputs(TENSORS, 0)
    tensors = {name: inputs[name] for name in TENSORS}
    actual = grad(lambda tensors: vmap(loss)(tensors).sum())(tensors)
    assert_mapped(actual, [autograd_of_loss(version_of(tensors, in_dims, index)) for index in range(3)])


@pytest.mark.parametrize("name", TENSORS)
def test_jacrev(name):
    inputs = make_inputs(Case(batch=1, length=3, dim=2, states=2, groups=2), torch.float64)

    def y(tensor):
        return scan(**(inputs | {name: tensor}))[0]

    torch.testing.assert_close(
        jacrev(y)(inputs[name]), torch.autograd.functional.jacobian(y, inputs[name]), **REORDERED
    )


def test_vmap_of_vmap():
    inputs = make_inputs(Case(length=5, groups=2), torch.float64)
    grid = torch.stack([torch.stack([inputs["u"] * (i + 2 * j) for i in range(2)]) for j in range(3)])
    y = vmap(vmap(lambda u: scan(**(inputs | {"u": u}))[0]))(grid)
    for j in range(3):
        for i in range(2):
            torch.testing.assert_close(y[j, i], scan(**(inputs | {"u": grid[j, i]}))[0], **REORDERED)


def test_tensor_inputs_are_those_of_the_schema():
    arguments = [argument.name for argument in OP._schema.arguments]
    assert arguments == [*TENSORS, "delta_softplus"]
    assert len(TENSORS) == ops.TENSOR_INPUTS == len(ops.CHANNEL_AXES)
