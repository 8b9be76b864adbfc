"""In ONNX: the scan and the linear recurrence, one Scan node each whose body computes a step, and floor division.

The states of a step stay in the cache, and the file depends on no length. onnxruntime spends about a microsecond on a
call in the body; forms that run many steps at once spend more than they save, because their states go through memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import onnx_ir as ir

from mvc.export.torch_private import record_onnx_nodes
from mvc.kernels.schemas import DIFFERENTIABLE, ScanInputs, op

WIDE = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


def translations() -> dict[Callable, Callable]:
    """For `custom_translation_table` of `torch.onnx.export`."""
    return {
        op("selective_scan"): selective_scan,
        op("linear_recurrence"): linear_recurrence,
        operator.floordiv: floor_division,
    }


def floor_division(dividend: ir.Value | int, divisor: ir.Value | int) -> ir.Value:
    """A size divided as in Python, where ONNX's Div cuts toward zero: -(-a // b), say, rounds up."""
    nodes = _Nodes()
    a, b = (nodes.constant(each) if isinstance(each, int) else each for each in (dividend, divisor))
    quotient = nodes("Div", nodes("Sub", a, nodes("Mod", a, b)), b)
    record_onnx_nodes(nodes.nodes)
    return quotient


def selective_scan(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse):
    """y and the last state of `mvc::selective_scan`; sums are float32, or float64 for a float64 u."""
    nodes, dtype = _Nodes(), u.dtype if u.dtype in WIDE else ir.DataType.FLOAT
    given = ScanInputs(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse)
    present = {name: tensor for name in DIFFERENTIABLE if (tensor := getattr(given, name)) is not None}
    given = given._replace(**{name: nodes.cast(tensor, dtype) for name, tensor in present.items()})
    y, last_state = _scan(nodes, given, _groups(B, C), constant=(_rank(B) == 2, _rank(C) == 2), dtype=dtype)
    if D is not None:
        y = nodes("Add", y, nodes("Mul", given.u, given.D))
    if z is not None:
        y = nodes("Mul", y, nodes("Mul", given.z, nodes("Sigmoid", given.z)))
    y = nodes("Cast", y, to=u.dtype)
    record_onnx_nodes(nodes.nodes)
    return y, last_state


def _scan(
    nodes: _Nodes, given: ScanInputs, groups: int, *, constant: tuple[bool, bool], dtype: ir.DataType
) -> tuple[ir.Value, ir.Value]:
    """C·h (batch, length, dim) and the last state (batch, dim, N).

    In between, a state is (batch, groups, N, width) with width = dim / groups, and what has no N has an axis of 1.

    Args:
        constant: whether B and C are (dim, N).
    """
    delta = nodes("Add", given.delta, given.delta_bias) if given.delta_bias is not None else given.delta
    delta = nodes.softplus(delta, dtype) if given.delta_softplus else delta
    A = nodes.per_group(given.A, groups)
    if given.initial_state is None:
        initial = nodes.zeros(nodes("Concat", nodes("Shape", given.u, end=1), nodes("Shape", A), axis=0), dtype)
    else:
        initial = nodes("Transpose", nodes.reshape(given.initial_state, 0, groups, -1, tail=2), perm=[0, 1, 3, 2])

    steps, body = _Steps(), _Nodes()
    before = steps.before(initial, dtype)
    step, drive = (
        steps.each(nodes.reshape(tensor, 0, 0, groups, 1, -1), dtype)
        for tensor in (delta, nodes("Mul", delta, given.u))
    )
    B, C = (
        nodes.per_group(weights, groups) if everywhere else steps.each(nodes.unsqueeze(weights, axis), dtype)
        for weights, everywhere, axis in zip((given.B, given.C), constant, (4, 3), strict=True)
    )
    if given.reset is not None:
        reset = steps.each(nodes.unsqueeze(given.reset, 2, 3, 4), ir.DataType.BOOL)
        before = body("Where", reset, body.constant(0.0, dtype), before)
    decayed = body("Mul", body("Exp", body("Mul", step, A)), before)
    state = body("Add", decayed, body("Mul", drive, B))
    y = body("ReduceSum", body("Mul", C, state), body.constant([-2])) if constant[1] else body("MatMul", C, state)
    last_state, y = steps.run(nodes, body, state, y, axis=1, reverse=given.reverse)
    last_state = nodes.reshape(nodes("Transpose", last_state, perm=[0, 1, 3, 2]), 0, -1, tail=3)
    return nodes.reshape(y, 0, 0, -1), last_state


def linear_recurrence(a, b, initial, dim, reverse):
    """All states of `mvc::linear_recurrence`, computed in at least float32."""
    nodes = _Nodes()
    result = _promoted(a, b, initial)
    dtype = result if result in WIDE else ir.DataType.FLOAT
    rank = max(_rank(a), _rank(b))
    a, b = (nodes.broadcastable(nodes.cast(tensor, dtype), rank - _rank(tensor)) for tensor in (a, b))
    shape = nodes("Max", nodes("Shape", a), nodes("Shape", b))
    a, b = (nodes("Expand", tensor, shape) for tensor in (a, b))
    lanes = nodes("Gather", shape, nodes.constant([axis for axis in range(rank) if axis != dim]))
    start = nodes.zeros(lanes, dtype) if initial is None else nodes("Expand", nodes.cast(initial, dtype), lanes)

    steps, body = _Steps(), _Nodes()
    before = steps.before(start, dtype)
    factor, addend = steps.each(a, dtype), steps.each(b, dtype)
    state = body("Add", body("Mul", factor, before), addend)
    _, states = steps.run(nodes, body, state, body("Identity", state), axis=dim, reverse=reverse)
    states = nodes("Cast", states, to=result)
    record_onnx_nodes(nodes.nodes)
    return states


class _Nodes(ir.tape.Tape):
    """Nodes in the order in which they are called for."""

    def __call__(self, kind: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        return self.op(kind, inputs, attributes)

    def constant(self, value: float | list[int], dtype: ir.DataType = ir.DataType.INT64) -> ir.Value:
        return self("Constant", value=ir.tensor(value, dtype))

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return value if value.dtype == dtype else self("Cast", value, to=dtype)

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        return self("Unsqueeze", value, self.constant(list(axes)))

    def reshape(self, value: ir.Value, *sizes: int, tail: int | None = None) -> ir.Value:
        """In a shape 0 is the size of the same axis and -1 what is left; the axes from `tail` on follow as they are."""
        shape = self.constant(list(sizes))
        if tail is not None:
            shape = self("Concat", shape, self("Shape", value, start=tail), axis=0)
        return self("Reshape", value, shape)

    def per_group(self, weights: ir.Value, groups: int) -> ir.Value:
        """(dim, N) -> (groups, N, width)."""
        return self("Transpose", self.reshape(weights, groups, -1, tail=1), perm=[0, 2, 1])

    def zeros(self, shape: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self("ConstantOfShape", shape, value=ir.tensor([0.0], dtype))

    def softplus(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Linear above 20, which matters in float64 alone; for that onnxruntime has no Softplus."""
        if dtype != ir.DataType.DOUBLE:
            return self("Softplus", x)
        log = self("Log", self("Add", self("Exp", x), self.constant(1.0, dtype)))
        return self("Where", self("Greater", x, self.constant(20.0, dtype)), x, log)

    def broadcastable(self, value: ir.Value, missing: int) -> ir.Value:
        """With so many more axes in front."""
        return self.unsqueeze(value, *range(missing)) if missing else value


class _Steps:
    """What the body of a Scan is given, and the node that runs it."""

    def __init__(self) -> None:
        self.outer: list[ir.Value] = []
        self.inner: list[ir.Value] = []

    def before(self, initial: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The state before a step; before the first one it is `initial`."""
        return self.each(initial, dtype)

    def each(self, sequence: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Of a tensor with steps its part of a step."""
        # Names of the body must not be among those of the graph around it.
        part = ir.Value(name=f"step.{len(self.inner)}", type=ir.TensorType(dtype))
        self.outer.append(sequence)
        self.inner.append(part)
        return part

    def run(
        self, nodes: _Nodes, body: _Nodes, state: ir.Value, result: ir.Value, *, axis: int, reverse: bool
    ) -> tuple[ir.Value, ir.Value]:
        """The last state, and the results of all steps along `axis`, which is that of the steps in what `each` got."""
        for serial, node in enumerate(body.nodes):
            node.outputs[0].name = f"step.result.{serial}"
        graph = ir.Graph(self.inner, [state, result], nodes=body.nodes, name="step")
        scanned, direction = len(self.inner) - 1, int(reverse)
        return nodes.op_multi_out(
            "Scan",
            self.outer,
            {
                "body": graph,
                "num_scan_inputs": scanned,
                "scan_input_axes": [axis] * scanned,
                "scan_input_directions": [direction] * scanned,
                "scan_output_axes": [axis],
                "scan_output_directions": [direction],
            },
            num_outputs=2,
        )


def _rank(value: ir.Value) -> int:
    return len(value.shape)


def _groups(B: ir.Value, C: ir.Value) -> int:
    """Of B and C (batch, length, groups, N); one where both are constant."""
    return next((weights.shape[2] for weights in (B, C) if _rank(weights) == 4), 1)


def _promoted(*values: ir.Value | None) -> ir.DataType:
    """The dtype that torch gives to what is computed from all of these."""
    dtypes = {value.dtype for value in values if value is not None}
    if len(dtypes) == 1:
        return dtypes.pop()
    return ir.DataType.DOUBLE if ir.DataType.DOUBLE in dtypes else ir.DataType.FLOAT
