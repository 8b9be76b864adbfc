"""`torch.compile(model, backend="mvc")`: the passes over Dynamo's graph, then Inductor.

Registered under the entry point `torch_dynamo_backends`, so that torch finds it without an import.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import logging
import os
import threading
import typing
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import fx

from mvc.arguments import require, require_choice, require_flag, shown
from mvc.compile import precompiled, recomputation, torch_private
from mvc.errors import UserError
from mvc.kernels import implementations
from mvc.kernels.torch_private import forward_mode
from mvc.passes import measured_choice, pipeline
from mvc.passes.base import Pass
from mvc.passes.dump import GraphDump
from mvc.passes.frozen.freeze import Frozen, freeze
from mvc.passes.graph.regions import op_counts
from mvc.passes.lowering.lower_scan import decompositions, holds_chunked
from mvc.passes.pipeline import PASSES, PassRecord
from mvc.passes.verify import Verifier

log = logging.getLogger("mvc")

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

_frozen: weakref.WeakKeyDictionary[Frozen, Options] = weakref.WeakKeyDictionary()
_frozen_lock = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that `torch.compile(..., backend="mvc", options={...})` accepts, besides Inductor's own.

    Attributes:
        passes: "all", "none", or the passes to run: names in `mvc.passes.pipeline.PASSES`, in any order, and `Pass`
            objects of your own, which run before the lowering in the order given.
        impl: what scans run on: "triton", "cpp", "chunked" or "reference"; None chooses the fastest on the device.
        kernels: what runs products, convolutions and attention on a GPU, where a Triton kernel of mvc could run them
            with what surrounds them: "measured" takes what is faster, timed once for each shape and kept on disk; "own"
            takes mvc's wherever one can run; "library" takes none.
        verify: run the graph before and after each pass on the example inputs, and raise when outputs, gradients or
            inputs written to differ by more than the dtype's budget, or when an output's shape, dtype or memory layout
            changes, or when an output uses more memory or shares memory with other tensors than before.
        frozen: for inference: compute once what depends on parameters alone. A parameter changed in place, or by
            `load_state_dict`, takes effect at the next call; one written to through `parameter.data` takes effect
            after `mvc.refresh`.
        recompute: for training: let the backward compute again, instead of keeping for it, what costs it little more
            than one write (`mvc.compile.recomputation`). None does so on a GPU, but not with the passes "none", which
            is Inductor alone. Where you have set how torch partitions training graphs, that stays.
        strict: raise the error of a pass that fails; otherwise the pass is skipped with a warning.
        dump: folder for the readable graph before and after each pass that fired.
        mode: Inductor's mode, here because torch.compile accepts no `mode` together with `options`.
        inductor: options of `torch._inductor.config`: all other keys of `options`.

    Raises:
        UserError: an unknown option, or a value that cannot be used.
    """

    passes: Literal["all", "none"] | Sequence[str | Pass] = "all"
    impl: implementations.Name | None = None
    kernels: measured_choice.Kernels = "measured"
    verify: bool = False
    frozen: bool = False
    recompute: bool | None = None
    strict: bool = False
    dump: str | Path | None = None
    mode: str = "default"
    inductor: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, options: Mapping[str, Any] | None = None, mode: str | None = None) -> Options:
        """The options of one `torch.compile` call.

        Raises:
            UserError: an unknown key, or a value that cannot be used.
        """
        wanted = "a mapping of names to values"
        require(options is None or isinstance(options, Mapping), "options", options, wanted)
        own = {field.name for field in dataclasses.fields(cls)} - {"inductor"}
        given = {"mode": "default" if mode is None else mode, **(options or {})}
        for key in given:
            require(isinstance(key, str), "a key of options", key, "a name")
        inductor = {key.replace("-", "_"): value for key, value in given.items() if key not in own}
        return cls(**{key: value for key, value in given.items() if key in own}, inductor=inductor)

    def __post_init__(self) -> None:
        require_choice("mode", self.mode, MODES)
        fits = self.impl is None or (isinstance(self.impl, str) and self.impl in implementations.TABLE)
        require(fits, "impl", self.impl, f"one of {', '.join(map(repr, (None, *implementations.TABLE)))}")
        require_choice("kernels", self.kernels, typing.get_args(measured_choice.Kernels))
        for name in ("verify", "frozen", "strict"):
            require_flag(name, getattr(self, name))
        fits = self.recompute is None or isinstance(self.recompute, bool)
        require(fits, "recompute", self.recompute, "True, False or None")
        self._check_dump()
        require(isinstance(self.inductor, Mapping), "inductor", self.inductor, "a mapping of names to values")
        for key, value in self.inductor.items():
            self._check_inductor(key, value)
        self.build_passes(inference=True)

    def _check_dump(self) -> None:
        if self.dump is None:
            return
        require(isinstance(self.dump, (str, Path)) and str(self.dump) != "", "dump", self.dump, "a folder's path")
        folder = Path(self.dump)
        existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        fits = existing.is_dir() and os.access(existing, os.W_OK)
        require(fits, "dump", str(folder), f"a folder that can be written to, and {existing} is none")

    def _check_inductor(self, key: str, value: object) -> None:
        known = torch_private.inductor_options()
        if key not in known:
            own = [field.name for field in dataclasses.fields(self)]
            close = difflib.get_close_matches(key, [*own, *known], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"options has {key!r}, which neither mvc nor Inductor knows{hint}")
        if not torch_private.inductor_option_fits(key, value):
            raise UserError(f"options has {key!r} {shown(value)}, which is not of the type that Inductor expects there")

    def build_passes(self, *, inference: bool) -> list[Pass]:
        """The passes to run, in order.

        Raises:
            UserError: a name that no pass has.
        """
        chosen = self.passes
        if isinstance(chosen, str):
            require(chosen in ("all", "none"), "passes", chosen, f"'all', 'none' or a list of {', '.join(PASSES)}")
            names, own = (list(PASSES) if chosen == "all" else []), []
        else:
            fits = isinstance(chosen, Iterable) and not isinstance(chosen, Mapping)
            require(fits, "passes", chosen, f"'all', 'none' or a list of {', '.join(PASSES)}")
            names = [each for each in chosen if isinstance(each, str)]
            own = [each for each in chosen if not isinstance(each, str)]
        unknown = [*(name for name in names if name not in PASSES), *(p for p in own if not isinstance(p, Pass))]
        if unknown:
            raise UserError(f"passes has {unknown[0]!r}; it must hold passes, or names among {', '.join(PASSES)}")
        return pipeline.build(
            names,
            own,
            impl=self.impl,
            kernels=self.kernels,
            frozen=self.frozen and inference,
            inference=inference,
        )


@dataclasses.dataclass
class GraphReport:
    """What the backend did with one of Dynamo's graphs.

    Attributes:
        before, after: how often the graph calls each op before and after the passes.
        passes: one record for each pass and graph, in order.
    """

    before: Counter[str]
    after: Counter[str]
    passes: list[PassRecord]


def mvc(
    graph_module: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """The backend: what `torch.compile(model, backend="mvc", mode=..., options=...)` calls for each graph.

    Raises:
        UserError: options that cannot be used, see `Options`.
    """
    return compile_graph(graph_module, example_inputs, Options.parse(options, mode))[0]


def compile_graph(
    graph_module: fx.GraphModule, example_inputs: Sequence[Any], options: Options
) -> tuple[Callable[..., Any], GraphReport]:
    """Run the passes over one of Dynamo's graphs and compile it with Inductor.

    In forward-mode AD the graph runs as it is, since the code that Inductor generates loses tangents.

    Returns:
        the compiled function, which accepts the graph's inputs, and what the passes did.
    """
    torch_private.warn_if_untested()
    if any(isinstance(each, torch.Tensor) and each.device.type == "cpu" for each in example_inputs):
        torch_private.begin_vector_isa_checks()
    torch_private.guard_forward_mode()
    before = op_counts(graph_module)
    if forward_mode():
        return graph_module.forward, GraphReport(before, before, [])
    inference = not torch.is_grad_enabled()
    passes = options.build_passes(inference=inference)
    observers = []
    if options.verify:
        observers.append(Verifier(graph_module, example_inputs))
    if options.dump is not None:
        observers.append(GraphDump(Path(options.dump)))
    records = pipeline.run(passes, graph_module, strict=options.strict, observers=observers)
    for record in records:
        _log(record)
    report = GraphReport(before, op_counts(graph_module), records)
    patches = {**torch_private.mode_options(options.mode), **options.inductor}
    if not inference and _recomputes(options, example_inputs) and torch_private.partitions_by_default(patches):
        patches["custom_partitioner_fn"] = torch_private.partitioner(recomputation.mark)
    generate = functools.partial(
        torch_private.inductor,
        options=patches,
        decompositions=decompositions if holds_chunked(graph_module) else None,
        cache_tag=pipeline.digest(passes),
        finished=precompiled.record,
    )
    if not (options.frozen and inference):
        return precompiled.prepared(generate(graph_module, example_inputs), frozen=False), report
    run = freeze(graph_module, example_inputs, generate)
    if isinstance(run, Frozen):
        with _frozen_lock:
            _frozen[run] = options
    return precompiled.prepared(run, frozen=True), report


def _recomputes(options: Options, example_inputs: Sequence[Any]) -> bool:
    if options.recompute is None:
        on_gpu = any(isinstance(each, torch.Tensor) and each.device.type == "cuda" for each in example_inputs)
        return on_gpu and options.passes != "none"
    return options.recompute


def refresh(compiled: Callable[..., Any]) -> None:
    """Tell a frozen callable that its weights were written to in a way that torch does not count.

    Such writes go through `parameter.data`, as some moving averages, clippings and target networks do, or come from
    code outside of torch. All other changes are noticed without this call. What the graphs computed from the weights
    is computed again at their next call, into the same memory, so that CUDA graphs stay valid.

    A module's parameters and buffers are marked as changed through their version counters: a backward that saved one
    of them earlier will refuse to run. What a plain function reads is not known from outside, so everything counts as
    changed that the functions and modules compiled with equal options read, since torch lets these share code. Before
    the first call there is nothing to do.

    Args:
        compiled: what `torch.compile(..., backend="mvc", options={"frozen": True})` or `mvc.compile_model` returned,
            what `aot_compile` made of it or `torch.compiler.load_compiled_function` loaded, or a module after
            `module.compile(...)`.

    Raises:
        UserError: a callable that was not compiled by this backend, or is not frozen.
    """
    graph = precompiled.loaded_graph(compiled)
    if graph is not None and graph.frozen:
        torch.autograd.graph.increment_version(graph.run.parameters() if isinstance(graph.run, Frozen) else [])
        return
    options = _options_of(compiled)
    if options is None or not options.frozen:
        name = getattr(compiled, "__name__", type(compiled).__name__)
        seen = "was not compiled with the backend 'mvc'" if options is None else "is not frozen and needs no refresh"
        raise UserError(
            f"compiled is {name}, which {seen}; refresh is for what torch.compile(..., backend='mvc', "
            "options={'frozen': True}) or mvc.compile_model returned"
        )
    if isinstance(compiled, torch.nn.Module):
        weights = [*compiled.parameters(), *compiled.buffers()]
    else:
        with _frozen_lock:
            alike = [frozen for frozen, others in _frozen.items() if others == options]
        weights = [weight for frozen in alike for weight in frozen.parameters()]
    torch.autograd.graph.increment_version(weights)


def _options_of(compiled: Callable[..., Any]) -> Options | None:
    """The options that `compiled` was compiled with; None where this backend did not compile it."""
    backend, keywords = torch_private.backend_of(compiled) or (None, {})
    if backend is mvc:
        return Options.parse(keywords.get("options"), keywords.get("mode"))
    options = getattr(backend, "options", None)  # of a `Recorder`
    return options if isinstance(options, Options) else None


def _log(record: PassRecord) -> None:
    if record.error is not None:
        log.warning("pass %s failed and was skipped: %s", record.name, record.error)
    for miss in record.near_misses:
        log.info("pass %s left %s alone: %s (%s)", record.name, miss.node, miss.reason, miss.source)
    if record.fired:
        log.info("pass %s: %d matches in %.2f s", record.name, record.matches, record.seconds)
