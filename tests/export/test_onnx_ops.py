"""The scan, the recurrence and sizes as onnxruntime computes them: against the oracle, with batch and length free."""

import pytest
import recurrence_cases
import scan_cases
import torch
from scan_cases import FORMS, assert_within_budget, map_tensors, reference
from torch import Tensor, nn

from mvc.export import onnx_file
from mvc.kernels.recurrence import linear_recurrence
from mvc.kernels.scan import selective_scan

for package in ("onnxscript", "onnxruntime"):
    pytest.importorskip(package)

SCANS = {
    "plain": scan_cases.Case(options=()),
    "all": scan_cases.Case(),
    "reverse": scan_cases.Case().plus("reverse"),
    "groups": scan_cases.Case(groups=3),
    "constant": scan_cases.Case().plus(*FORMS),
    "one-state": scan_cases.Case(states=1, options=("initial_state",)),
    "half": scan_cases.Case(),
    "double": scan_cases.Case(),
}
DTYPES = {"half": torch.float16, "double": torch.float64}
SIZES = ((2, 7), (1, 1), (3, 13))  # batch and length; the first is the example's
LENGTHWISE = ("u", "delta", "z", "reset")
Recurrence = recurrence_cases.Case
RECURRENCES = {
    "middle": Recurrence((3, 7, 5), (3, 7, 5), 1, (3, 5)),
    "reverse": Recurrence((3, 7, 5), (3, 7, 5), 1, reverse=True),
    "first": Recurrence((7, 4), (7, 4), 0),
    "last": Recurrence((2, 7), (2, 7), 1, (1,)),
    "broadcast": Recurrence((7, 1), (3, 1, 5), 1, (5,)),
    "half": Recurrence((3, 7, 5), (3, 7, 5), 1, dtypes=(torch.float16,) * 3),
    "mixed": Recurrence((3, 7, 5), (3, 7, 5), 1, (5,), dtypes=(torch.float16, torch.float32, torch.float16)),
}


class Calls(nn.Module):
    """One call for each set of arguments, whose tensors are the inputs, in order."""

    def __init__(self, call, calls: list[dict]):
        super().__init__()
        self.call = call
        self.flags = [{name: value for name, value in each.items() if not isinstance(value, Tensor)} for each in calls]
        self.names = [[name for name, value in each.items() if isinstance(value, Tensor)] for each in calls]

    def forward(self, *tensors):
        given = iter(tensors)
        results = []
        for flags, names in zip(self.flags, self.names, strict=True):
            result = self.call(**flags, **{name: next(given) for name in names})
            results += result if isinstance(result, tuple) else (result,)
        return results


def tensors(calls: list[dict]) -> tuple[Tensor, ...]:
    return tuple(value for each in calls for value in each.values() if isinstance(value, Tensor))


def loaded(module, calls, folder, shapes):
    program = torch.export.export(module.eval(), tensors(calls), dynamic_shapes=(shapes,))
    return onnx_file.load(onnx_file.write(program, folder / "calls.onnx", {}, accept=lambda run: None)[0])


def scan_inputs(batch: int, length: int) -> list[dict]:
    cases = {name: case._replace(batch=batch, length=length) for name, case in SCANS.items()}
    return [scan_cases.make_inputs(case, DTYPES.get(name, torch.float32)) for name, case in cases.items()]


def free(name: str, tensor: Tensor) -> dict:
    batch, length = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("length", min=1, max=64)
    if name in LENGTHWISE or (name in "BC" and tensor.dim() == 4):
        return {0: batch, 1: length}
    return {0: batch} if name == "initial_state" else {}


def scan(**inputs):
    return selective_scan(**inputs, return_last_state=True)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    calls = scan_inputs(*SIZES[0])
    shapes = tuple(free(name, t) for each in calls for name, t in each.items() if isinstance(t, Tensor))
    return loaded(Calls(scan, calls), calls, tmp_path_factory.mktemp("scans"), shapes)


@pytest.mark.versions
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_scans_are_within_the_budget_at_every_size(scans, sizes):
    calls = scan_inputs(*sizes)
    outputs = iter(scans(*tensors(calls)))
    for name, inputs in zip(SCANS, calls, strict=True):
        is_double = inputs["u"].dtype == torch.float64
        oracle = reference(**map_tensors(Tensor.double, inputs))
        baseline = reference(**(map_tensors(Tensor.float, inputs) if is_double else inputs))
        for result, *each in zip(("y", "last state"), outputs, oracle, baseline, strict=False):
            assert_within_budget(*each, f"{name}: {result}")


def test_nothing_passes_a_reset(scans):
    calls = scan_inputs(2, 7)
    inputs = calls[list(SCANS).index("all")]
    inputs["reset"][:] = False
    inputs["reset"][:, 3] = True
    inputs["u"][:, 1] = float("nan")
    inputs["initial_state"][:] = float("inf")
    y = scans(*tensors(calls))[2 * list(SCANS).index("all")]
    assert not y[:, :3].isfinite().any()
    assert y[:, 3:].isfinite().all()


@pytest.mark.versions
def test_recurrences_are_within_the_budget(tmp_path):
    calls = [recurrence_cases.make_inputs(case) for case in RECURRENCES.values()]
    shapes = tuple({} for _ in tensors(calls))
    outputs = loaded(Calls(linear_recurrence, calls), calls, tmp_path, shapes)(*tensors(calls))
    for name, inputs, h in zip(RECURRENCES, calls, outputs, strict=True):
        oracle = recurrence_cases.reference(**map_tensors_of_recurrence(Tensor.double, inputs))
        assert_within_budget(h, oracle, recurrence_cases.reference(**inputs), name)


def map_tensors_of_recurrence(function, inputs: dict) -> dict:
    return inputs | {name: function(t) for name, t in recurrence_cases.tensors_of(inputs).items()}


@pytest.mark.parametrize("sizes", [(3, 7), (1, 1), (5, 20)], ids=str)
def test_a_recurrence_over_free_sizes(free_recurrence, sizes):
    a, b = torch.rand(*sizes, 4), torch.randn(*sizes, 4)
    torch.testing.assert_close(free_recurrence(a, b), linear_recurrence(a, b, dim=1, reverse=True))


@pytest.fixture(scope="module")
def free_recurrence(tmp_path_factory):
    calls = [{"a": torch.rand(3, 7, 4), "b": torch.randn(3, 7, 4), "dim": 1, "reverse": True}]
    shapes = tuple(
        {0: torch.export.Dim("batch", min=1, max=8), 1: torch.export.Dim("length", min=1, max=64)} for _ in "ab"
    )
    return loaded(Calls(linear_recurrence, calls), calls, tmp_path_factory.mktemp("recurrence"), shapes)


class Divided(nn.Module):
    def forward(self, x):
        length = x.shape[0]
        sizes = (length // 4, -(-length // 4), (3 - length) // 5, (3 - length) % 5, length // -4)
        return x.new_tensor(0.0) + torch.stack([x.new_ones(()) * size for size in sizes])


def test_sizes_are_divided_as_in_python(tmp_path):
    length = torch.export.Dim("length", min=1, max=64)
    made = torch.export.export(Divided(), (torch.zeros(10),), dynamic_shapes=({0: length},))
    onnx_file.write(made, tmp_path / "divided.onnx", {}, accept=lambda run: None)
    run = onnx_file.load(tmp_path / "divided.onnx")
    for count in (1, 3, 4, 9, 64):
        torch.testing.assert_close(run(torch.zeros(count)), Divided()(torch.zeros(count)))
