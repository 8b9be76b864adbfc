"""Generates a model's GPU code, in a process that has the stand-in device; `mvc.offline.generate` starts it.

`python -m mvc.offline.codegen REQUEST FOLDER LAUNCHES` writes the wrappers into the folder and the launches to a file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import linecache
import pkgutil
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from mvc.compile.backend import Options, compile_graph
from mvc.compile.inductor_code import LAUNCH, paired
from mvc.kernels import ops
from mvc.offline import child, memory, own_kernels, torch_private
from mvc.offline.manifest import Launch, Request
from mvc.offline.torch_private import Code, NotRun, Work
from mvc.passes.frozen.freeze import Frozen

PHASES = ("forward", "backward")
LIBRARIES = (Path(ops.__file__).parent, Path(torch.__file__).parent)  # whose functions the model calls
# A reduction that a kernel left in parts.
FINISHED = re.compile(r"\s+\w+ = \w+\[[^\]]*\]\.view\(.*?\)\.(?P<op>\w+)\(dim=0\)\.view\(\[.*?\]\)(?P<cast>\.to\()?")
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in')


class Generated(NamedTuple):
    """The code of the forward graph and, in training, of the backward graph; and the inputs of the former.

    Attributes:
        inputs: the forward's inputs: names of the model's tensors and arguments, and "constant 0" and so on.
        constants: for frozen weights, Python that computes the constants from the tensors that its `PARAMETERS` names.
    """

    codes: list[Code]
    inputs: list[str]
    constants: str | None


def main(arguments: Sequence[str]) -> None:
    request, folder = Request(**json.loads(arguments[0])), Path(arguments[1])
    generated = generate(request)
    if generated.constants is not None:
        (folder / "constants.py").write_text(generated.constants, encoding="utf-8")
    launches, interfaces = [], {}
    for phase, code in zip(PHASES, generated.codes, strict=False):
        (folder / f"{phase}.py").write_text(code.wrapper, encoding="utf-8")
        launches += [dataclasses.asdict(launch) for launch in launches_of(code, phase)]
        interfaces[phase] = {"inputs": code.inputs}
    facts = {"launches": launches, "interfaces": interfaces, "inputs": generated.inputs, "memory": None}
    if request.training:
        kept = len(interfaces["backward"]["inputs"]) - 1  # the last one is the cotangent of the scores
        facts["memory"] = dataclasses.asdict(memory.measured(folder, kept))
    Path(arguments[2]).write_text(json.dumps(facts), encoding="utf-8")


def build(request: Request, device: str, dtype: torch.dtype | None = None) -> nn.Module:
    """The model of the request, its parameters in `dtype` or as they are stored."""
    changes = {"drop_path_rate": 0.0} if request.training else {}
    builder = pkgutil.resolve_name(request.builder)
    model = builder(request.variant, device=device, dtype=dtype or getattr(torch, request.stored), **changes)
    return model.train(request.training)


def autocast(request: Request, device: str) -> contextlib.AbstractContextManager:
    return torch.autocast(device, getattr(torch, request.dtype)) if request.autocast else contextlib.nullcontext()


def generate(request: Request) -> Generated:
    fakes = torch_private.fake_mode()
    model = build(request, "meta")
    _fake_tensors(model, fakes)
    asked = {name: getattr(request, name) for name in ("passes", "frozen", "kernels", "recompute")}
    options = Options.parse({**asked, "strict": True, **torch_private.OPTIONS})
    inputs, constants = [], None

    def backend(graph_module: fx.GraphModule, examples: list[Any]) -> Any:
        nonlocal inputs, constants
        inputs = [torch_private.source_of(node) for node in graph_module.graph.find_nodes(op="placeholder")]
        compiled = compile_graph(graph_module, examples, options)[0]
        if isinstance(compiled, Frozen):
            constants = _constants_source(compiled, inputs)
            computed = (f"constant {index}" for index in range(compiled.count))
            inputs = [*(inputs[index] for index in compiled.kept_inputs), *computed]
        return not_run

    with fakes, torch.set_grad_enabled(request.training), torch_private.captured_code() as codes:
        shape = (request.batch, model.config.in_chans, request.height, request.width)
        x = torch.empty(shape, dtype=getattr(torch, request.stored), device="cuda:0", memory_format=torch.channels_last)
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        with contextlib.suppress(NotRun), autocast(request, "cuda"):
            compiled(x)
    return Generated(codes, inputs, constants)


def not_run(*arguments: Any) -> None:
    raise NotRun


def _constants_source(frozen: Frozen, inputs: list[str]) -> str:
    """The source of a module that computes the constants, once, from parameters."""
    graph = frozen.constants.graph
    for node in graph.nodes:
        node.type = None
    code = graph.python_code("self")
    imports = [
        f"from {each.__module__} import {each.__qualname__} as {name}"
        for name, each in sorted(code.globals.items())
        if getattr(each, "__module__", "torch").split(".")[0] == "mvc"
    ]
    parameters = ",\n".join(f"    {inputs[index]!r}" for index in frozen.parameter_inputs)
    return "\n".join(
        [
            '"""The constants of the generated code, computed once from parameters."""\n',
            "import torch",
            "from torch import device, inf, nan",
            *imports,
            f"\nPARAMETERS = (\n{parameters},\n)\n",
            textwrap.dedent(code.src),
        ]
    )


def _fake_tensors(model: nn.Module, fakes: contextlib.AbstractContextManager) -> None:
    """Replace all parameters and buffers by tensors on the GPU without storage."""

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        with fakes:
            return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cuda:0")

    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(fake(parameter), requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, fake(buffer))


def launches_of(code: Code, phase: str) -> list[Launch]:
    """The wrapper's launches, each with the work that the schedule states for it.

    Raises:
        ValueError: launches and schedule do not match.
    """
    return [_launch(work, phase) for _, work in paired(list(_launched(code.wrapper)), code.work)]


def _launched(wrapper: str) -> Iterator[str]:
    """The names of what a wrapper launches, in order."""
    for line in wrapper.splitlines():
        yield from LAUNCH.findall(line)
        if (finished := FINISHED.match(line)) is not None:
            yield f"Tensor.{finished['op']}"
            if finished["cast"]:
                yield "Tensor.to"


def _launch(work: Work, phase: str) -> Launch:
    origins = work.origins[::-1]  # the node of the result first
    return Launch(
        kind=work.kind,
        name=work.name,
        kernels=() if work.kind == "extern" else (work.name,),
        phase=phase,
        source=tuple(dict.fromkeys(filter(None, map(_source, origins)))),
        ops=tuple(dict.fromkeys(str(node.target) for node in origins if node.op == "call_function")),
        reads=work.reads,
        writes=work.writes,
        flops=work.flops if work.sizes is None else own_kernels.flops(work.name, work.sizes),
        groups=work.groups,
        steps=own_kernels.steps(work.name, work.steps),
    )


def _source(node: fx.Node) -> str | None:
    """The innermost line of the model's own code and, before it, the line that calls it; see `Launch.source`."""
    frames = [
        f"{Path(file).name}:{line}: {linecache.getline(file, int(line)).strip()}"
        for file, line in FRAME.findall(node.meta.get("stack_trace") or "")
        if not any(Path(file).is_relative_to(library) for library in LIBRARIES)
    ]
    return " > ".join(frames[-2:]) or None


if __name__ == "__main__":
    child.serve(main)
