"""Runs generated GPU code on CPU tensors: Triton kernels under Triton's interpreter, library calls through ATen.

The private API of Inductor's runtime and of Triton's interpreter, in this one place; `mvc.offline.device` says for
which versions. For processes that were started with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mvc.patches import replaced

WIDEST = 1 << 16  # elements of a block: the interpreter runs a block as one numpy operation

ALIKE = (
    "abs acos asin atan atan2 ceil cos cosh erf erfc exp exp2 expm1 floor fmod hypot lgamma log log10 log1p log2 pow "
    "rsqrt sin sinh sqrt tan tanh trunc"
)
LIBDEVICE: dict[str, Callable[..., Tensor]] = {
    **{name: getattr(torch, name) for name in re.split(" ", ALIKE)},
    "fma": lambda x, y, z: x * y + z,
    "nearbyint": torch.round,
    "rint": torch.round,
}


def module(path: Path, **globals_: Any) -> ModuleType:
    """A generated file as a module, with some of its globals replaced."""
    spec = importlib.util.spec_from_file_location(f"replayed_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(globals_)
    return module


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Run generated wrappers that are loaded and called in the block on CPU tensors."""
    from torch._inductor.runtime import triton_helpers, triton_heuristics

    guards = torch._C._dynamo.guards
    patches = (
        replaced(torch.cuda, "_DeviceGuard", lambda device: contextlib.nullcontext()),
        replaced(torch.cuda, "set_device", lambda device: None),
        replaced(torch._C, "_cuda_getCurrentRawStream", lambda device: 0),
        replaced(guards, "_empty_strided_cuda", guards._empty_strided_cpu),
        replaced(triton_heuristics.CachingAutotuner, "run", _run),
        replaced(triton_heuristics.DebugAutotuner, "run", _run),
        triton_helpers.skip_gpu_driver_setup(),
        mended(),
        _libdevice(),
        _attention_on_cpu(),
    )
    with contextlib.ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield


@contextlib.contextmanager
def without_storage() -> Iterator[None]:
    """Run generated wrappers that are loaded and called in the block on tensors of the device "meta": kernels do
    nothing, and a module's `get_args` makes its inputs."""
    import torch._dynamo.testing
    from torch._inductor.async_compile import AsyncCompile

    def empty(size: Sequence[int], stride: Sequence[int], dtype: torch.dtype, device: Any = None, **_: Any) -> Tensor:
        return torch.empty_strided(size, stride, dtype=dtype, device="meta")

    def view(base: Tensor, size: Sequence[int], stride: Sequence[int], offset: int = 0) -> Tensor:
        return base.as_strided(size, stride, base.storage_offset() + offset)

    guards = torch._C._dynamo.guards
    unchecked = ("assert_size_stride", "assert_size_stride_grouped", "assert_alignment")
    patches = (
        replaced(torch.cuda, "_DeviceGuard", lambda device: contextlib.nullcontext()),
        replaced(torch.cuda, "set_device", lambda device: None),
        replaced(torch._C, "_cuda_getCurrentRawStream", lambda device: 0),
        replaced(torch._dynamo.testing, "rand_strided", lambda size, stride, dtype, device: empty(size, stride, dtype)),
        replaced(AsyncCompile, "triton", lambda *_, **__: _Idle()),
        replaced(guards, "_empty_strided_cuda", empty),
        replaced(guards, "_reinterpret_tensor", view),
        replaced(guards, "copy_if_misaligned", lambda tensor: tensor),
        *(replaced(guards, name, lambda *_: None) for name in unchecked if hasattr(guards, name)),
    )
    with contextlib.ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield


class _Idle:
    """A kernel that does nothing."""

    def run(self, *_: Any, **__: Any) -> None:
        pass


def _scan(ops: Any, inputs: Sequence[Any]) -> list[Any]:
    """`tl.associative_scan`, slice by slice along its axis."""
    dtypes = [each.dtype for each in inputs]
    columns = [np.moveaxis(each.handle.data, ops.axis, 0) for each in inputs]
    slices = [[ops.to_tensor(*each) for each in zip(row, dtypes, strict=True)] for row in zip(*columns, strict=True)]
    states = [slices[0]]
    for row in slices[1:]:
        combined = ops.combine_fn.fn(*states[-1], *row)
        states.append(combined if isinstance(combined, tuple) else (combined,))
    scanned = zip(*([each.handle.data for each in state] for state in states), strict=True)
    return [ops.to_tensor(np.stack(found, ops.axis), dtype) for found, dtype in zip(scanned, dtypes, strict=True)]


@contextlib.contextmanager
def mended() -> Iterator[None]:
    """Triton's interpreter with right bfloat16, and in about half of its time.

    By itself it cuts float32 off where a GPU rounds it to bfloat16, loses subnormal numbers on the way back, multiplies
    the integers that it keeps bfloat16 in, patches the language anew for each call of a nested function, makes a table
    of all dtypes for each value, and scans element by element.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    dot, convert = interpreter.InterpreterBuilder.create_dot, interpreter._convert_float
    array_dtype = interpreter._get_np_dtype
    of_scalar = functools.cache(array_dtype)

    def create_dot(builder: Any, a: Any, b: Any, *others: Any) -> Any:
        return dot(builder, _widened(a), _widened(b), *others)

    def convert_float(values: np.ndarray, source: tl.dtype, target: tl.dtype, mode: Any) -> np.ndarray:
        if (source, target) == (tl.bfloat16, tl.float32):
            return _bits_of_float32(values)
        if (source, target) == (tl.float32, tl.bfloat16) and mode != interpreter._ir.ROUNDING_MODE.RTZ:
            return _rounded(values)
        return convert(values, source, target, mode)

    def call_nested(function: Any, *args: Any, **kwargs: Any) -> Any:
        return function.rewrite()(*args, **kwargs)

    def cached_dtype(dtype: tl.dtype) -> np.dtype:
        scalar = dtype.element_ty if dtype.is_block() else dtype
        return array_dtype(scalar) if scalar.is_ptr() else of_scalar(scalar)  # pointers are not hashable

    # A launch patches what its kernel sees of the language; this is what the language's own functions see.
    language = interpreter._patch_lang(tl.standard.zeros.fn)
    try:
        with (
            replaced(interpreter.InterpreterBuilder, "create_dot", create_dot),
            replaced(interpreter, "_convert_float", convert_float),
            replaced(interpreter.InterpretedFunction, "__call__", call_nested),
            replaced(interpreter, "_get_np_dtype", cached_dtype),
            replaced(interpreter.ScanOps, "generic_scan", _scan),
        ):
            yield
    finally:
        language.restore()


def _rounded(values: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 values nearest to those of float32, of two that are as near the even one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # NaN would become an infinity
    return np.where(np.isnan(values), (bits >> 16) | 0x40, nearest).astype(np.uint16).reshape(np.shape(values))


def _widened(handle: Any) -> Any:
    """The interpreter's tensor of bfloat16 in float32; any other as it is."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return TensorHandle(_bits_of_float32(handle.data).view(np.float32), tl.float32)


def _bits_of_float32(bits: np.ndarray) -> np.ndarray:
    """Those of the same values in bfloat16."""
    return bits.astype(np.uint32) << 16


def _run(kernel: Any, *args: Any, stream: Any = None, **_: Any) -> None:
    """One launch of a `CachingAutotuner`, with the first of its configurations."""
    from torch._inductor.runtime.triton_heuristics import GridExpr, HeuristicType

    config = copy.copy(kernel.configs[0])
    config.kwargs = dict(config.kwargs)
    if kernel.heuristic_type in (HeuristicType.POINTWISE, HeuristicType.PERSISTENT_REDUCTION):
        _widen(config.kwargs, inspect.getsource(kernel.fn.fn))
    names, constants = kernel.fn.arg_names, kernel.triton_meta["constants"]
    absent = {name for name, value in constants.items() if value is None} - kernel.triton_meta["signature"].keys()
    fixed = {*config.kwargs, *kernel.inductor_meta.get("declared_constexpr_names", ()), *absent}
    given = [name for name in names if name not in fixed]
    expected = [*given, *kernel.inductor_meta.get("extra_launcher_args", ())]
    values = dict(zip(expected, args, strict=True))
    grid = GridExpr.from_meta(kernel.inductor_meta, config, mode="python").eval_slow(values)
    bound = {name: value for name, value in constants.items() if name in names and name not in config.kwargs}
    kernel.fn[grid](**{name: values[name] for name in given} | bound | config.kwargs)  # -1 stands for an absent tensor


def _widen(blocks: dict[str, int], source: str) -> None:
    """Enlarge the blocks along axes that the kernel masks, or by powers of two that divide the axis."""
    axes = [axis for axis in "XYZ" if f"{axis}BLOCK" in blocks]
    share = round(WIDEST ** (1 / len(axes))) if axes else 1
    for axis in axes:
        low = axis.lower()
        limit = share if "r0_index" not in source else 64  # rows of a reduction are long
        masked = re.search(rf"{low}mask = {low}index < ", source)
        extent = re.search(rf"{low}numel = (\d+)", source)
        divisor = int(extent[1]) & -int(extent[1]) if extent else 1
        widest = limit if masked else min(limit, divisor)
        blocks[f"{axis}BLOCK"] = max(blocks[f"{axis}BLOCK"], 1 << int(math.log2(max(widest, 1))))


@contextlib.contextmanager
def _libdevice() -> Iterator[None]:
    """libdevice's functions, computed by torch's, since those of the interpreter return nothing."""
    from triton.language.extra import libdevice

    with contextlib.ExitStack() as stack:
        for name, function in LIBDEVICE.items():
            if hasattr(libdevice, name):
                stack.enter_context(replaced(libdevice, name, _of_triton_tensors(function)))
        for name in ("isnan", "isinf", "signbit"):
            stack.enter_context(replaced(libdevice, name, _of_triton_tensors(getattr(torch, name), bool)))
        yield


def _of_triton_tensors(function: Callable[..., Tensor], result: type | None = None) -> Callable[..., Any]:
    """A function of torch's as a function of the interpreter's tensors, elementwise and with broadcasting."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    def run(*operands: Any, **_: Any) -> Any:
        tensors = [each if isinstance(each, tl.tensor) else tl.full((), each, tl.float32) for each in operands]
        arrays = np.broadcast_arrays(*(np.asarray(each.handle.data) for each in tensors))
        values = function(*(torch.from_numpy(np.array(each)) for each in arrays)).numpy()
        largest = max(tensors, key=lambda each: np.asarray(each.handle.data).size)
        scalar = tl.int1 if result is bool else largest.dtype
        data = np.asarray(values, dtype=bool if result is bool else np.asarray(largest.handle.data).dtype)
        kind = tl.block_type(scalar, list(largest.shape)) if largest.type.is_block() else scalar
        return tl.tensor(TensorHandle(data, scalar), kind)

    return run


@contextlib.contextmanager
def _attention_on_cpu() -> Iterator[None]:
    """The attention ops that exist only for CUDA, without dropout. Results have the memory layout of those ops."""
    library = torch.library.Library("aten", "IMPL")
    for name in ("flash", "efficient", "cudnn"):
        forward = f"_scaled_dot_product_{name}_attention"
        for op, compute in ((forward, _attend), (f"{forward}_backward", _attend_backward)):
            overload = getattr(torch.ops.aten, op).default
            library.impl(op, functools.partial(_in_layout, overload, compute), "CPU", allow_override=True)
    try:
        yield
    finally:
        library._destroy()


def _in_layout(op: torch._ops.OpOverload, compute: Callable[..., tuple[Tensor, ...]], *args: Any, **kwargs: Any) -> Any:
    """The results of `compute`, in tensors of the sizes and strides that the op's results have."""
    metas = op(*tree_map_only(Tensor, lambda tensor: tensor.to("meta"), args), **kwargs)
    results = tree_map_only(Tensor, lambda meta: torch.zeros_like(meta, device="cpu"), metas)
    names = (argument.name.rstrip("_") for argument in op._schema.arguments)
    for result, value in zip(results, compute(**dict(zip(names, args, strict=False)), **kwargs), strict=False):
        result.copy_(value)
    return results


def _attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor]:
    return (_attention(query.float(), key.float(), value.float(), **options).to(query.dtype),)


def _attend_backward(grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, ...]:
    attend = functools.partial(_attention, **options)
    return torch.func.vjp(attend, query.float(), key.float(), value.float())[1](grad_out.float())


def _attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """softmax(QKᵀ/√d)V; a bias, dropout and causality are not replayed."""
    unknown = [name for name in ("attn_bias", "dropout_p", "is_causal") if options.get(name)]
    if unknown:
        raise NotImplementedError(f"attention with {unknown[0]} is not replayed")
    scale = options.get("scale") or query.shape[-1] ** -0.5
    return torch.softmax(query @ key.mT * scale, dim=-1) @ value
