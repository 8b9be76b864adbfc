"""Loops over few steps, as people write them: what raising each is worth compared with Inductor's fused code.

`python bench/passes.py short` runs it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mvc.cli import write_json
from mvc.measure import profiler
from mvc.measure.environment import environment
from mvc.passes import pipeline
from mvc.passes.pipeline import PassRecord
from mvc.passes.raising.raise_loop import RaiseLoop
from mvc.passes.raising.raise_scan import RaiseScan
from mvc.table import tabulate

STEPS = (2, 3, 4, 6, 8, 16, 64)
SIZES = {"small": (1, 4, 64), "middle": (16, 64, 64), "large": (16, 256, 196)}  # of a state
N = 16  # states of a channel, where a step reads them out
ALWAYS = {"passes": [RaiseLoop(always=True), RaiseScan(), "lower_scan"]}


def stacked(step: Callable[..., Tensor], dim: int = 0) -> Callable[..., Tensor]:
    """A loop over the first axis of its sequences that stacks the states along `dim`."""

    def loop(h: Tensor, *sequences: Tensor) -> Tensor:
        states = []
        for t in range(sequences[0].shape[dim]):
            h = step(h, *(each.select(dim, t) for each in sequences))
            states.append(h)
        return torch.stack(states, dim)

    return loop


def gated(h: Tensor, gate: Tensor, x: Tensor) -> Tensor:
    keep = torch.sigmoid(gate)
    return keep * h + (1 - keep) * torch.tanh(x)


def thresholded(h: Tensor, x: Tensor) -> Tensor:
    return torch.relu(stacked(lambda v, x: 0.9 * v + x)(h, x) - 0.1)


def read_out(h: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    outputs = []
    for t in range(a.shape[0]):
        h = a[t] * h + b[t]
        outputs.append((h * c[t].unsqueeze(1)).sum(-1))
    return torch.stack(outputs)


def read_out_and_states(h: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    outputs, states = [], []
    for t in range(a.shape[0]):
        h = a[t] * h + b[t]
        outputs.append((h * c[t].unsqueeze(1)).sum(-1))
        states.append(h)
    return torch.stack(outputs), torch.stack(states)


def mamba(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The selective scan as mamba-ssm publishes it, (batch, channels, length)."""
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    drive = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    h, outputs = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + drive[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", h, C[:, :, t]))
    return torch.stack(outputs, dim=2)


class Form(NamedTuple):
    """A loop, and the shapes of its arguments for a number of steps and the shape of a state."""

    loop: Callable[..., Any]
    shapes: Callable[..., tuple[tuple[int, ...], ...]]


def _apart(*shape: int) -> tuple[int, int, int]:
    """(batch, channels, N), as many numbers as in the shape."""
    return shape[0], math.prod(shape[1:]) // N, N


def _read_out_shapes(n: int, *shape: int) -> tuple[tuple[int, ...], ...]:
    batch, channels, states = _apart(*shape)
    state = (batch, channels, states)
    return state, (n, *state), (n, *state), (n, batch, states)


def _mamba_shapes(n: int, *shape: int) -> tuple[tuple[int, ...], ...]:
    batch, channels, states = _apart(*shape)
    sequence, weights = (batch, channels, n), (batch, states, n)
    return sequence, sequence, (channels, states), weights, weights


FORMS = {
    "constant": Form(thresholded, lambda n, *s: (s, (n, *s))),
    "scalar": Form(stacked(lambda h, a, b: h * a + b), lambda n, *s: (s, (n,), (n,))),
    "vector": Form(stacked(lambda h, a, b: h * a + b), lambda n, *s: (s, (n, s[-1]), (n, s[-1]))),
    "full": Form(stacked(lambda h, a, b: a * h + b), lambda n, *s: (s, (n, *s), (n, *s))),
    "axis 1": Form(stacked(lambda h, a, b: a * h + b, 1), lambda n, *s: (s, *((s[0], n, *s[1:]),) * 2)),
    "gated": Form(stacked(gated), lambda n, *s: (s, (n, *s), (n, *s))),
    "read-out": Form(read_out, _read_out_shapes),
    "both": Form(read_out_and_states, _read_out_shapes),
    "mamba": Form(mamba, _mamba_shapes),
}


class Cell(NamedTuple):
    form: str
    size: str
    gradients: bool
    steps: int

    def inputs(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = FORMS[self.form].shapes(self.steps, *SIZES[self.size])
        leaves = [torch.rand(shape, generator=generator).mul_(0.5) for shape in shapes]
        return [leaf.requires_grad_(self.gradients) for leaf in leaves]


def study(args: argparse.Namespace) -> None:
    cells = [
        Cell(form, size, mode == "gradients", steps)
        for form, size, mode, steps in itertools.product(args.forms, args.sizes, args.modes, args.steps)
    ]
    facts = {"environment": dataclasses.asdict(environment(torch.device("cpu"))), "rounds": args.rounds, "cells": []}
    table = []
    for line, group in itertools.groupby(cells, lambda cell: cell[:3]):
        measured = [measure(cell, rounds=args.rounds, every=args.every) for cell in group]
        facts["cells"] += measured
        form, size, gradients = line
        table.append([form, size, "gradients" if gradients else "forward", *map(_shown, measured)])
        print(*table[-1], file=sys.stderr, flush=True)
        if args.json:
            write_json(facts, args.json)
    print(tabulate(table, headers=["loop", "state", "", *(f"{n} steps" for n in args.steps)], markdown=True))
    print("Time over stock Inductor's, median; left: the graph is stock's own; (in brackets) raised all the same.")


def measure(cell: Cell, *, rounds: int, every: bool) -> dict[str, Any]:
    """What the pass does to the loop and, where it is raised (or in any case), its time and stock Inductor's.

    A loop that is left alone is not timed with mvc, since Inductor then compiles the same graph as without mvc.
    """
    with torch.set_grad_enabled(cell.gradients):
        inputs, loop = cell.inputs(), FORMS[cell.form].loop
        record = decision(loop, inputs)
        row = {
            **cell._asdict(),
            "raised": bool(record.matches),
            "reasons": [miss.reason for miss in record.near_misses],
        }
        if not (row["raised"] or every):
            return row
        hows = {
            "inductor": {"backend": "inductor"},
            "mvc": {"backend": "mvc", "options": {} if row["raised"] else ALWAYS},
        }
        runs, row["compile_seconds"] = {}, {}
        for name, how in hows.items():
            start = time.perf_counter()
            runs[name] = called(loop, inputs, how)
            row["compile_seconds"][name] = time.perf_counter() - start
        timings = profiler.measure(runs, rounds=rounds, device=torch.device("cpu")).timings
    row["seconds"] = {name: timing.median for name, timing in timings.items()}
    row["ratio"] = timings["mvc"].ratio_to(timings["inductor"])._asdict()
    return row


def decision(loop: Callable[..., Any], inputs: list[Tensor]) -> PassRecord:
    records = []

    def backend(module, example_inputs):
        records.extend(pipeline.run([RaiseLoop()], module))
        return module.forward

    torch.compiler.reset()
    torch.compile(loop, backend=backend, fullgraph=True)(*inputs)
    return records[0]


def called(loop: Callable[..., Any], inputs: list[Tensor], how: dict[str, Any]) -> Callable[[], Any]:
    """Call the compiled loop once, and its backward where gradients are asked for."""
    torch.compiler.reset()
    run = torch.compile(loop, fullgraph=True, **how)
    outputs = run(*inputs)
    if not inputs[0].requires_grad:
        return lambda: run(*inputs)
    ones = [torch.ones_like(each) for each in (outputs if isinstance(outputs, tuple) else (outputs,))]

    def forward_and_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(*inputs), inputs, ones)

    forward_and_backward()
    return forward_and_backward


def _shown(row: dict[str, Any]) -> str:
    ratio = f"{row['ratio']['median']:.2f}" if "ratio" in row else "left"
    return ratio if row["raised"] or "ratio" not in row else f"left ({ratio})"
