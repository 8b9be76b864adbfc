"""The private torch API that `mvc.export` uses, in this one place; `tests/export/test_export_torch_private.py` calls
all of it."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor, fx

from mvc.patches import patching, replaced


def mark_free(x: Tensor, axis: int, low: int, high: int) -> None:
    """Have Dynamo trace x with this size unknown, and raise where the trace holds for a part of the range alone."""
    torch._dynamo.mark_dynamic(x, axis, min=low, max=high)


def load(path: Path) -> Any:
    """The function of an AOTInductor package. Whether this processor runs its code is known by now: torch only compares
    names, and warns of a processor that has more."""
    with _unlogged("torch.export.pt2_archive._package"):
        return torch._inductor.aoti_load_package(str(path))


def guards_unlogged() -> contextlib.AbstractContextManager:
    """Within the block torch raises what is wrong with a guard without printing it too."""
    return _unlogged("torch._guards")


@contextlib.contextmanager
def _unlogged(name: str) -> Iterator[None]:
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def range_violation(error: BaseException | None) -> str | None:
    """Why a trace holds for a part of its range alone, in one line; None for other errors."""
    from torch._dynamo.exc import UserError as TorchUserError
    from torch.fx.experimental.symbolic_shapes import ConstraintViolationError

    while error is not None:
        if isinstance(error, ConstraintViolationError) or (
            isinstance(error, TorchUserError) and "onstraint" in str(error)
        ):
            return _reason(str(error))
        error = error.__cause__ or error.__context__
    return None


def _reason(report: str) -> str:
    """What torch's report says first of a guard, or of a size for which the code computes a constant and where."""
    lines = [line.strip(" -") for line in report.splitlines()]
    if (said := next((line for line in lines if "generated guard" in line), None)) is not None:
        return said
    constant = re.search(r"You marked (.+) as dynamic but your code specialized it to be a constant \((\d+)\)", report)
    if constant is None:
        return next((line for line in lines if line.startswith("Not all values")), lines[0])
    frames = re.findall(r'File "(.+)", line (\d+), in', report[constant.end() :].partition("- You marked")[0])
    where = f" ({frames[-1][0]}:{frames[-1][1]})" if frames else ""
    return f"its code takes {constant[1]} for {constant[2]}{where}"


def shape_environment(graph: fx.Graph) -> Any:
    """What torch knows of a graph's free sizes; None for a graph without any."""
    for node in graph.nodes:
        fake = node.meta.get("val", node.meta.get("example_value"))
        if isinstance(fake, torch.Tensor) and hasattr(fake, "fake_mode"):
            return fake.fake_mode.shape_env
    return None


def symbol(size: torch.SymInt) -> sympy.Symbol:
    """Of an input's free size, before anything was found to be equal to it."""
    return size.node._expr


def guards(environment: Any) -> list[sympy.Basic]:
    """The conditions that decided what was traced."""
    asserts = (each.expr for several in environment.deferred_runtime_asserts.values() for each in several)
    return [*(guard.expr for guard in environment.guards), *asserts]


@contextlib.contextmanager
def dropped_guards(environment: Any) -> Iterator[list[sympy.Basic]]:
    """The conditions that torch drops in the block since the environment is frozen, but for those that nobody asked
    for: where guards are suppressed, whichever way a question is answered is right (see `fewer_shape_guards`)."""
    found: list[sympy.Basic] = []
    check = type(environment)._check_frozen

    def record(asked: Any, expression: Any, answer: Any) -> None:
        if asked is environment and asked.frozen and not asked._suppress_guards_tls():
            found.append(_condition(expression, sympy.sympify(answer)))
        check(asked, expression, answer)

    with replaced(type(environment), "_check_frozen", record):
        yield found


def _condition(expression: sympy.Basic, answer: sympy.Basic) -> sympy.Basic:
    if answer in (sympy.true, sympy.false):
        return expression if answer == sympy.true else sympy.Not(expression)
    return sympy.Eq(expression, answer)


def limits(environment: Any) -> list[str]:
    """What sizes are known to be, and within which ranges."""
    return [
        *(f"{symbol} is {other}" for symbol, other in environment.replacements.items()),
        *(f"{symbol} is from {limits.lower} to {limits.upper}" for symbol, limits in environment.var_to_range.items()),
    ]


def range_of(environment: Any, symbol: sympy.Symbol) -> tuple[int, int]:
    """The least and the largest size. torch takes free sizes for 2 at least; 1 is served as well."""
    limits = environment.var_to_range[symbol]
    return (1 if limits.lower == 2 else int(limits.lower)), int(limits.upper)


def simplest(environment: Any, condition: sympy.Basic) -> sympy.Basic:
    """The condition over the sizes that are not known by others."""
    return environment.replace(condition)


def computed(condition: sympy.Basic, sizes: Mapping[sympy.Symbol, Tensor]) -> Tensor | None:
    """Whether the condition holds, for each entry of tensors of sizes; None if torch cannot compute it from tensors."""
    from torch.utils._sympy.interp import sympy_interp
    from torch.utils._sympy.reference import TensorReferenceAnalysis

    class WithRemainders(TensorReferenceAnalysis):
        mod = python_mod = staticmethod(torch.remainder)

    try:
        return torch.as_tensor(sympy_interp(WithRemainders, dict(sizes), condition))
    except (AttributeError, NotImplementedError, KeyError, TypeError):
        return None


def size_in_example(size: int) -> int:
    """A size as a number; of one that is unknown, what the example has."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


def unchecked_lower_bounds() -> dict[str, Any]:
    """The option that lets packages accept a batch of 1 where the check of inputs is switched on: torch traces free
    sizes as at least 2. Older versions have neither."""
    from torch._inductor import config

    name = "aot_inductor.check_lowerbound"
    return {name: False} if name in config.get_config_copy() else {}


def linked(flags: Sequence[str], library: Path | None) -> dict[str, Any]:
    """The options by which AOTInductor links a package's library.

    Args:
        flags: for the linker.
        library: another one that it needs, and then finds beside itself.
    """
    needed: tuple[str, ...] = ()
    if library is not None:
        search = f"-L{shlex.quote(str(library.parent))} -l:{library.name}"
        needed = ("-Wl,--no-as-needed", search, "-Wl,-rpath,'$ORIGIN'")
    # Each entry follows "-l" on the command line, which is split at blanks.
    return {"aot_inductor.custom_op_libs": [" ".join(("dl", *needed, *flags))]}


def package(
    program: torch.export.ExportedProgram, path: Path, options: Mapping[str, Any], beside: Sequence[Path]
) -> None:
    """Compile a program with AOTInductor into the package `path`, with further files beside its library."""
    from torch._inductor.package import package_aoti

    arguments, keywords = program.example_inputs
    made = torch._inductor.aot_compile(program.module(check_guards=False), arguments, keywords, options=dict(options))
    package_aoti(str(path), [*made, *map(str, beside)])


def save(program: torch.export.ExportedProgram, path: Path) -> None:
    """`torch.export.save`, without its warning of weights in channels_last memory, which it stores as they are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found")
        torch.export.save(program, path)


def metadata_of(path: Path) -> dict[str, str]:
    """What an AOTInductor package says of itself."""
    return torch._C._aoti.AOTIModelPackageLoader.load_metadata_from_package(str(path), "model")


@contextlib.contextmanager
def code_for(vectors: str, architecture: str) -> Iterator[dict[str, Any]]:
    """Within the block Inductor writes and compiles C++ for an instruction set, whatever this processor has.

    Args:
        vectors: the class of Inductor's with its vectors; empty for none.
        architecture: the compiler's name of it.

    Yields:
        the options that belong to it.
    """
    from torch._inductor import config, cpp_builder, cpu_vec_isa

    chosen = [getattr(cpu_vec_isa, vectors)()] if vectors else []
    with contextlib.ExitStack() as stack:
        stack.enter_context(patching)
        stack.enter_context(replaced(cpu_vec_isa, "valid_vec_isa_list", lambda: chosen))
        options = {"cpp.simdlen": None, "cpp.vec_isa_ok": True}
        if "cpp.march" in config.get_config_copy():
            options["cpp.march"] = architecture
        else:  # older versions compile for the processor that they run on
            flags = cpp_builder._get_optimization_cflags

            def without_native(*arguments: Any) -> tuple[list[str], list[str]]:
                compiling, linking = flags(*arguments)
                return [f"march={architecture}" if flag == "march=native" else flag for flag in compiling], linking

            stack.enter_context(replaced(cpp_builder, "_get_optimization_cflags", without_native))
        yield options


def record_onnx_nodes(nodes: Sequence[Any]) -> None:
    """Have the translation that `torch.onnx.export` is calling consist of these nodes of `onnx_ir` too.

    onnxscript's ops, the public way, give a Scan one output alone.
    """
    from torch.onnx._internal.exporter import _core

    _core.current_tracer.nodes.extend(nodes)
