"""What ptxas makes of the Triton scan: registers, local memory, exponentials, shuffles, wide loads.

The launches are those that the launcher makes for a few calls; each is compiled ahead of time, without a GPU.
"""

from __future__ import annotations

import collections
import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from mvc.kernels.rules import op
from scan_cases import Case, Inputs, make_inputs, op_arguments, run
from test_triton_scan import by_channel, by_length
from torch import Tensor

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

import triton
from mvc.kernels import triton_launch, triton_scan  # noqa: F401
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ARCHITECTURES = (80, 90, 100)
ON_EACH = ("N8", "N33", "N16 chunks")  # the others, which differ in what is loaded, on one architecture
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
MATRIX = Case(batch=2, length=32, dim=64, options=("D", "z", "delta_bias", "initial_state", "softplus"))


class Budget(NamedTuple):
    """The most that one compiled kernel may have; exponentials are those of one step and channel, with N states."""

    registers: int
    exponentials: tuple[int, int]  # a N + b as (a, b)
    shuffles: bool = False


# A kernel's loop is there once for WIDE steps and once for the single steps beyond them: WIDE + 1 times in the code.
BUDGETS = {
    "forward_kernel": Budget(80, (1, 2)),
    "forward_kernel, one of several launches": Budget(128, (1, 2)),  # N above 16, which adds what others gave to y
    "summary_kernel": Budget(80, (2, 2)),  # and once more, at its end, for each state
    "combine_kernel": Budget(40, (0, 0)),
    "backward_kernel": Budget(168, (2, 4), shuffles=True),  # sums over channels
}

CALLS = {
    "N8": (MATRIX, by_channel, torch.float32),
    "N16": (MATRIX._replace(states=16), by_channel, torch.float32),
    "N16 by length": (MATRIX._replace(states=16), by_length, torch.float32),
    "N16 bfloat16": (MATRIX._replace(states=16), by_channel, torch.bfloat16),
    "N16 reset": (MATRIX._replace(states=16).plus("reset", "reverse"), by_channel, torch.float32),
    "N8 constant B, reset": (MATRIX.plus("constant_B", "reset"), by_channel, torch.bfloat16),
    "N33": (MATRIX._replace(states=33), by_channel, torch.float32),
    "N16 chunks": (MATRIX._replace(states=16, length=512, batch=1), by_channel, torch.float32),
    "N8 chunks, reset": (MATRIX._replace(length=512, batch=1).plus("reset", "reverse"), by_length, torch.bfloat16),
}


class Launch(NamedTuple):
    kernel: Any  # triton's JITFunction
    arguments: dict[str, Any]
    warps: int

    def source(self) -> ASTSource:
        """Specialised as a launch does it: None, 1 and multiples of 16 are known to the compiler."""
        signature, constants, attributes = {}, {}, {}
        annotated = {parameter.name for parameter in self.kernel.params if parameter.is_constexpr}
        for index, (name, value) in enumerate(self.arguments.items()):
            if name in annotated or value is None or (isinstance(value, int) and value == 1):
                signature[name], constants[name] = "constexpr", value
                continue
            signature[name] = f"*{POINTERS[value.dtype]}" if isinstance(value, Tensor) else "i32"
            if isinstance(value, Tensor) or value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        return ASTSource(self.kernel, signature, constants, attributes)

    @property
    def name(self) -> str:
        several = not (self.arguments.get("FIRST", True) and self.arguments.get("LAST", True))
        plain = self.kernel.__name__
        return f"{plain}, one of several launches" if several and plain == "forward_kernel" else plain

    @property
    def states(self) -> int:
        return self.arguments.get("N", 0)

    @property
    def steps(self) -> int:
        """How often the loop over steps stands in the code, counted in steps."""
        return self.arguments["WIDE"] + 1 if "WIDE" in self.arguments else 1


POINTERS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.uint8: "u8"}


def launches_of(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What the launcher launches for a forward and a backward; nothing runs."""
    recorded = []

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def launch(*positional, num_warps, **named):
                names = [parameter.name for parameter in self.kernel.params]
                arguments = dict(zip(names, positional, strict=False)) | named
                recorded.append(Launch(self.kernel, {name: arguments[name] for name in names}, num_warps))

            return launch

    monkeypatch.setattr(triton_launch, "wrap_triton", Recorder)
    run(lambda **given: op("selective_scan_triton")(*op_arguments(given)), inputs)
    return recorded


class Binary(NamedTuple):
    registers: int
    local_bytes: int
    opcodes: collections.Counter[str]

    def count(self, prefix: str) -> int:
        return sum(count for opcode, count in self.opcodes.items() if opcode.startswith(prefix))


def compiled(launch: Launch, architecture: int) -> Binary:
    target = GPUTarget("cuda", architecture, 32)
    cubin = triton.compile(launch.source(), target=target, options={"num_warps": launch.warps}).asm["cubin"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = tool("cuobjdump", "--dump-resource-usage", file.name)
        code = tool("nvdisasm", "-c", file.name)
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
    opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", code)
    return Binary(registers, stack + local, collections.Counter(opcodes))


def tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def assert_within_budget(launch: Launch, architecture: int) -> None:
    binary, budget = compiled(launch, architecture), BUDGETS[launch.name]
    per_state, others = budget.exponentials
    exponentials = launch.steps * (per_state * launch.states + others)
    sequences = [name for name, value in launch.arguments.items() if name.endswith("_ALONG") and value]
    figures = {
        "registers": (binary.registers, budget.registers),
        "bytes of local memory": (binary.local_bytes, 0),
        "spills": (binary.count("LDL") + binary.count("STL"), 0),
        "exponentials": (binary.count("MUFU.EX2"), exponentials),
        "shuffles": (binary.count("SHFL"), 10**6 if budget.shuffles else 0),
    }
    where = f"{launch.name} of {launch.states} states for sm_{architecture}"
    for figure, (seen, most) in figures.items():
        assert seen <= most, f"{where}: {seen} {figure}, at most {most} are allowed"
    if sequences and launch.arguments["p_u"].dtype == torch.float32:
        wide = binary.count("LDG.E.128") + binary.count("LDG.E.64")
        present = [
            name for name in sequences if launch.arguments[f"p_{name.removesuffix('_ALONG').lower()}"] is not None
        ]
        read = present if launch.arguments.get("p_checkpoint") is None else present[:2]
        assert wide >= min(len(read), 2), f"{where}: {wide} wide loads for {len(read)} sequences along the length"


def check(name: str, architecture: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case, layout, dtype = CALLS[name]
    launches = launches_of(layout(make_inputs(case, dtype)), monkeypatch)
    assert {launch.kernel.__name__ for launch in launches} >= {"forward_kernel", "backward_kernel"}
    assert ("summary_kernel" in {launch.kernel.__name__ for launch in launches}) == ("chunks" in name)
    for launch in {repr(launch.source().hash()): launch for launch in launches}.values():
        assert_within_budget(launch, architecture)


def budgeted() -> Iterator[Any]:
    for name in CALLS:
        for architecture in ARCHITECTURES if name in ON_EACH else ARCHITECTURES[1:2]:
            quick = (name, architecture) == ("N8", 90)
            marks = pytest.mark.versions if quick else pytest.mark.slow
            yield pytest.param(name, architecture, marks=marks, id=f"{name}-sm_{architecture}")


@pytest.mark.parametrize(("name", "architecture"), list(budgeted()))
def test_budgets(name, architecture, monkeypatch):
    check(name, architecture, monkeypatch)


@pytest.mark.versions
def test_inductor_sees_the_kernels():
    """Traced for a GPU, the op is calls of Triton kernels, not one opaque node."""
    from torch._functorch.aot_autograd import aot_function
    from torch._subclasses.fake_tensor import FakeTensorMode

    graphs = []
    inputs = make_inputs(MATRIX)
    arguments = [t for t in op_arguments(inputs) if isinstance(t, Tensor)]
    with FakeTensorMode() as mode, torch.no_grad():
        on_gpu = [mode.from_tensor(t).to("cuda") for t in arguments]

        def scan(*tensors):
            given = iter(tensors)
            return op("selective_scan_triton")(
                *(next(given) if isinstance(a, Tensor) else a for a in op_arguments(inputs))
            )

        aot_function(scan, lambda graph, _: graphs.append(graph) or graph)(*on_gpu)
    targets = [str(node.target) for node in graphs[0].graph.nodes]
    assert sum("triton_kernel_wrapper" in target for target in targets) == 1
    assert not any("selective_scan" in target for target in targets)
