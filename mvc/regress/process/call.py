"""A case of anyone's: a function that returns a callable and its arguments, or yields them once."""

import contextlib
import importlib
import inspect
import itertools
import random
import sys
import time
from collections.abc import Mapping

import torch

from . import clocks
from .built import Built, Refused, own_graphs
from .facts import compilations, require_source


def build(case, paths):
    name, _, attribute = case["call"].partition(":")
    module = _module(name, paths)
    function = _attribute(module, attribute, case["call"])
    with contextlib.ExitStack() as stack:
        asked = [_ask(function, case, seed, stack) for seed in range(case["inputs"])]
        sets = itertools.cycle([arguments for _, arguments in asked])
        called, mode = asked[0][0], None
        if case["compile"]:
            options = {} if case["compile"] is True else case["compile"]
            called, mode = torch.compile(called, **options), options.get("mode", "default")
        run = _with_backward(called, sets, case["call"]) if case["backward"] else lambda: called(*next(sets))
        facts, start = {"source": module.__file__}, time.perf_counter()
        for _ in range(case["inputs"]):
            run()
        if case["compile"]:
            facts["compile_seconds"] = time.perf_counter() - start
        by_time = (mode or "").startswith("max-autotune")
        return Built(
            run,
            facts,
            lambda: _exact(run, case, launches=mode is not None and not by_time),
            every=case["inputs"],
            chosen_by_time=by_time,
            no_graph=own_graphs(mode),
            hidden=case["device"] == "cuda",
            close=stack.pop_all().close,
        )


def _module(name, paths):
    root = name.partition(".")[0]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # of what it imports
        where = f" in {' or '.join(paths)}" if paths else ""
        raise Refused(f"there is no module {error.name!r}{where}; call is 'package.module:function'") from None
    require_source(root, module.__file__, paths)
    return module


def _attribute(module, name, call):
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise Refused(f"call is {call!r}, but {module.__file__} has no {name!r}")
        found = getattr(found, part)
    if not callable(found):
        raise Refused(f"call is {call!r}, which is {type(found).__name__}; it must be a function")
    return found


def _ask(function, case, seed, stack):
    """A callable and its arguments. What a generator does after its `yield` is left to the stack."""
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    parameters = inspect.signature(function).parameters
    arguments = dict(case["arguments"])
    if "device" in parameters:
        arguments.setdefault("device", case["device"])
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise Refused(f"{case['call']} does not accept the case's arguments: {error}") from None
    made = function(**arguments)
    if inspect.isgenerator(made):
        generator = made
        made = next(generator, None)
        stack.callback(lambda: next(generator, None))
    if not (isinstance(made, (tuple, list)) and len(made) == 2):
        raise Refused(
            f"{case['call']} returned {type(made).__name__}; it must return, or yield once, a callable and a tuple of "
            "its arguments"
        )
    called, arguments = made
    if not callable(called) or not isinstance(arguments, (tuple, list)):
        raise Refused(
            f"{case['call']} returned {type(called).__name__} and {type(arguments).__name__}; it must return a "
            "callable and a tuple of its arguments"
        )
    return called, tuple(arguments)


def _with_backward(called, sets, call):
    """The call and its gradients: of the sum of its floating outputs, to every tensor without a history that requires
    one, which may be an argument or a module's parameter."""
    leaves = {}

    def run():
        arguments = next(sets)
        outputs = [each for each in _tensors(called(*arguments)) if each.is_floating_point() and each.requires_grad]
        if not outputs:
            raise Refused(f"backward is set, but no output of {call} requires a gradient")
        total = sum(each.float().sum() for each in outputs)
        key = id(arguments)
        if key not in leaves:
            leaves[key] = _leaves(total)
        return torch.autograd.grad(total, leaves[key], allow_unused=True)

    return run


def _tensors(value):
    """The tensors in a nest of tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from itertools.chain.from_iterable(map(_tensors, value.values()))
    elif isinstance(value, (tuple, list)):
        yield from itertools.chain.from_iterable(map(_tensors, value))


def _leaves(tensor):
    """The tensors to which a backward of this one would add gradients."""
    found, seen, waiting = [], set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


def _exact(run, case, *, launches):
    """Graph breaks and recompiles of this process, and the launches if they are asked for: on CUDA the kernels, copies
    and memsets of one call of each argument set, on a CPU the kernels that were generated. None for what is not known.
    """
    counted = compilations()
    generated = counted.pop("launches")
    if launches:
        counted["launches"] = _kernels(run, case["inputs"]) if case["device"] == "cuda" else generated
    return counted


def _kernels(run, calls):
    try:
        return len(clocks.kernels(run, calls))
    except RuntimeError:  # the profiler is not allowed to look
        return None
