"""What a program can observe of a run: values, gradients, tensors' place in memory, and what else it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from mvc.passes.accuracy import relative_error, root_mean_square
from mvc.passes.graph.fx_utils import value
from mvc.passes.torch_private import example_size


@dataclasses.dataclass(frozen=True)
class Traits:
    """What can be observed of one tensor besides its values.

    Attributes:
        memory: "its own", or the first tensor of the run that is this very one or shares its storage.
        strides: of the axes that have more than one element, with their numbers; an empty tensor has none.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool
    memory: str
    strides: dict[int, int] | None
    storage_offset: int
    storage_bytes: int


class Difference(NamedTuple):
    """A property that differs between two runs; of values, by how much."""

    where: str
    what: str
    expected: Any
    actual: Any

    def __str__(self) -> str:
        return f"{self.where}: {self.what} {self.actual}, expected {self.expected}"


@dataclasses.dataclass
class Observation:
    """What one run left, by name: "output 0", "input 0" as it became, "gradient of input 0"."""

    traits: dict[str, Traits]
    values: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    modes: dict[str, Any]

    def differences(self, actual: Observation, budget: float) -> Iterator[Difference]:
        """What differs in another run, which may differ in values by the budget, in relative L2 norm.

        Where a tensor's memory is not filled by it, as a slice's, the other may have dense memory of its size alone,
        with its axes in the same order: it then takes no more memory, and what worked on the slice works on it. Its
        views move with it, those too of which it is none of the results.
        """
        if self.traits.keys() != actual.traits.keys():
            yield Difference("the run", "results", [*self.traits], [*actual.traits])
            return
        for name, mode in self.modes.items():
            if actual.modes[name] != mode:
                yield Difference("the run", f"{name} afterwards", mode, actual.modes[name])
        moved: set[str] = set()
        for name, traits in self.traits.items():
            yield from _differing(name, traits, actual.traits[name], moved)
        for one, other in ((self.values, actual.values), (self.gradients, actual.gradients)):
            # A tensor that is zero but for rounding is compared with the others.
            least = 1e-3 * root_mean_square(each for each in one.values() if each is not None)
            for name, expected in one.items():
                error = _error(other[name], expected, least=least)
                if not error <= budget:
                    yield Difference(name, "relative L2 error", f"at most {budget:.2e}", f"{error:.2e}")


class AsDescribed(fx.Interpreter):
    """Runs a graph so that what torch's scans return has the strides of their example values, as in compiled code.

    Run eagerly, these operators lay their results out otherwise than torch says that they do.
    """

    scans = (torch.ops.higher_order.associative_scan, torch.ops.higher_order.scan)

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        if node.target not in self.scans:
            return result
        return [_laid_out(actual, described) for actual, described in zip(result, value(node), strict=True)]


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    strides = tuple(example_size(stride) for stride in like.stride())
    if tensor.stride() == strides:
        return tensor
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def observe(run: Callable[..., Any], inputs: Sequence[Any], *, seed: int = 0) -> Observation:
    """Call `run` with copies of the inputs, laid out and sharing memory as they do, and note all that it leaves.

    Gradients are those of every output and of every input that was written to, from seeds that are always the same.
    """
    leaves, given = _copies(inputs)
    nodes = [getattr(each, "grad_fn", None) for each in given]
    with torch.random.fork_rng(), torch.set_grad_enabled(torch.is_grad_enabled()), _kept_autocast():
        torch.manual_seed(seed)
        outputs = [_tensor(each) for each in tree_leaves(run(*given)) if isinstance(each, Tensor | int | float)]
        modes = _modes()
    named = {f"input {i}": each for i, each in enumerate(given) if isinstance(each, Tensor)}
    named.update((f"output {i}", each) for i, each in enumerate(outputs))
    roots = [each for each in outputs if each.requires_grad]
    roots += [each for each, node in zip(given, nodes, strict=True) if getattr(each, "grad_fn", None) is not node]
    wanted = {f"gradient of {name}": leaves[name] for name in leaves if leaves[name].requires_grad}
    gradients: Sequence[Tensor | None] = ()
    if roots and wanted:
        seeds = [_seed(root) for root in roots]
        gradients = torch.autograd.grad(roots, [*wanted.values()], seeds, allow_unused=True)
    return Observation(
        _traits(named),
        {name: each.detach().clone() for name, each in named.items()},
        dict(zip(wanted, gradients, strict=False)),
        modes,
    )


def _differing(name: str, expected: Traits, actual: Traits, moved: set[str]) -> Iterator[Difference]:
    """The properties that differ; `moved` are tensors seen before that have dense memory where slices are expected."""
    ignored: set[str] = set()
    if actual.storage_bytes <= expected.storage_bytes:
        ignored = {"storage_bytes"}
        if _is_dense_copy(expected, actual):
            moved.add(f"shared with {name}")
            ignored |= {"strides", "storage_offset"}
        elif _order(expected) == _order(actual) and (
            expected.memory in moved or actual.storage_bytes < expected.storage_bytes
        ):
            ignored |= {"strides", "storage_offset"}
    for field in dataclasses.fields(Traits):
        one, other = getattr(expected, field.name), getattr(actual, field.name)
        if one != other and field.name not in ignored:
            yield Difference(name, field.name.replace("_", " "), one, other)


def _order(traits: Traits) -> list[int]:
    """The axes from the innermost to the outermost."""
    strides = traits.strides or {}
    return sorted(strides, key=lambda axis: (strides[axis], -axis))


def _is_dense_copy(expected: Traits, actual: Traits) -> bool:
    """Whether the actual tensor fills its memory, with the axes in the expected tensor's order."""
    if expected.strides is None or actual.strides is None or actual.shape != expected.shape:
        return False
    dense, size = {}, 1
    for axis in _order(expected):
        dense[axis] = size
        size *= expected.shape[axis]
    return actual.strides == dense and actual.storage_bytes == size * actual.dtype.itemsize


def _traits(named: dict[str, Tensor]) -> dict[str, Traits]:
    found, objects, storages = {}, {}, {}
    for name, tensor in named.items():
        strided = _is_strided(tensor)
        memory = tensor.untyped_storage() if strided else None
        same = objects.setdefault(id(tensor), name)
        shared = storages.setdefault(memory.data_ptr(), name) if memory and memory.nbytes() else name
        found[name] = Traits(
            tuple(tensor.shape),
            tensor.dtype,
            tensor.device,
            tensor.requires_grad,
            f"the tensor of {same}" if same != name else f"shared with {shared}" if shared != name else "its own",
            _strides(tensor) if strided else None,
            tensor.storage_offset() if strided else 0,
            memory.nbytes() if strided else 0,
        )
    return found


def _strides(tensor: Tensor) -> dict[int, int]:
    if not tensor.numel():
        return {}
    return {axis: tensor.stride(axis) for axis, size in enumerate(tensor.shape) if size > 1}


def _is_strided(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized


def _tensor(leaf: Tensor | float) -> Tensor:
    return leaf if isinstance(leaf, Tensor) else torch.tensor(leaf)


class _Interior(torch.autograd.Function):
    """A tensor over a leaf's memory that is no leaf: graphs may write to it in place."""

    @staticmethod
    def forward(ctx, leaf: Tensor) -> Tensor:
        return _placed(leaf, leaf.untyped_storage())

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


def _placed(tensor: Tensor, memory: torch.UntypedStorage) -> Tensor:
    made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return made.set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())


def _copies(inputs: Sequence[Any]) -> tuple[dict[str, Tensor], list[Any]]:
    """Leaves by the inputs' names, and what a run is given: tensors that share memory do so in the copies."""
    memories: dict[int, torch.UntypedStorage] = {}
    made: dict[int, tuple[Tensor, Tensor]] = {}
    leaves, given = {}, []
    for index, each in enumerate(inputs):
        if isinstance(each, Tensor):
            if id(each) not in made:
                made[id(each)] = _copy(each, memories)
            leaves[f"input {index}"], each = made[id(each)]
        given.append(each)
    return leaves, given


def _copy(tensor: Tensor, memories: dict[int, torch.UntypedStorage]) -> tuple[Tensor, Tensor]:
    if _is_strided(tensor) and not tensor.is_conj() and not tensor.is_neg():
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in memories or not memory.nbytes():
            memories[memory.data_ptr()] = memory.clone()
        copy = _placed(tensor, memories[memory.data_ptr()])
    else:
        copy = tensor.detach().clone()
    leaf = copy.requires_grad_(tensor.requires_grad)
    if tensor.is_leaf or not _is_strided(tensor):
        return leaf, leaf
    with torch.enable_grad():
        return leaf, _Interior.apply(leaf)


def _modes() -> dict[str, Any]:
    """What the rest of a program finds changed by a run."""
    return {
        "gradients enabled": torch.is_grad_enabled(),
        "autocast": _autocast(),
        "random numbers drawn": hash(torch.get_rng_state().numpy().tobytes()),
    }


def _autocast() -> dict[str, bool]:
    return {device: torch.is_autocast_enabled(device) for device in ("cpu", "cuda")}


@contextlib.contextmanager
def _kept_autocast() -> Iterator[None]:
    before = _autocast()
    try:
        yield
    finally:
        for device, enabled in before.items():
            torch.set_autocast_enabled(device, enabled)


def _seed(root: Tensor) -> Tensor:
    """What the gradient starts from: varied, and the same in every run."""
    steps = torch.arange(root.numel(), device=root.device, dtype=torch.float32)
    return torch.cos(steps).reshape(root.shape).to(root.dtype)


def _error(actual: Tensor | None, expected: Tensor | None, *, least: float) -> float:
    """The relative error; an absent gradient equals one of zeros."""
    if actual is None or expected is None:
        present = actual if expected is None else expected
        return 0.0 if present is None or not present.any() else math.inf
    if actual.dtype != expected.dtype:
        return math.inf
    if actual.shape == expected.shape and torch.equal(actual, expected):
        return 0.0
    return relative_error(actual, expected, least=least, same_nonfinite=True)
