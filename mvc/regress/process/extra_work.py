"""Extra work of a known share, for studies of the gate itself."""

import itertools
import statistics

import torch

from . import clocks

PRODUCT_SECONDS = 1e-5  # extra work lasts at least about this long: a kernel takes 2 us, however small it is


def slowed(run, seconds, share, *, trials=3, trial_seconds=1.0):
    """The case with extra work: as many elementwise products as make it slower by that share, here and now.

    After a short case, a product needs another time than alone. The first guess is then corrected by timing calls with
    and without the extra work in turns.
    """
    x = torch.rand(4096)
    repeats = round(share * seconds / statistics.median(clocks.timed(lambda: x.mul_(1.0), 200)))

    def both():
        run()
        for _ in range(repeats):
            x.mul_(1.0)

    pairs = round(trial_seconds / seconds)
    for _ in range(trials if pairs >= 100 else 0):
        slower = statistics.median([clocks.timed(both, 1)[0] / clocks.timed(run, 1)[0] for _ in range(pairs)]) - 1
        repeats = round(repeats * min(2.0, max(0.5, share / max(slower, 1e-9))))
    return both


def slowed_on_device(run, share, clock, device, every=1, *, trials=8, tolerance=0.1):
    """The case with extra work on the device in one of several calls, and the number of those calls. The work is
    elementwise products whose size makes a call slower by that share, within a tenth of it, by that clock, here and
    now.

    Args:
        clock: makes one of the clocks from a callable and `every`.
        every: as the case has it; the number returned is a multiple of it.

    Raises:
        RuntimeError: no size does so.
    """
    x = torch.ones(2**24, device=device)
    turn = 20
    alone = clock(run, every)
    seconds = statistics.median(alone(turn))
    every *= max(1, round(PRODUCT_SECONDS / (share * seconds * every)))
    product = statistics.median(clock(lambda: x.mul_(1.0))(turn))
    elements = share * seconds * every / product * x.numel()
    for _ in range(trials):
        both = with_products(run, x, round(elements), every)
        slower = statistics.median(clock(both, every)(turn)) / statistics.median(alone(turn)) - 1
        if abs(slower / share - 1) < tolerance:
            return both, every
        elements *= min(2.0, max(0.5, share / max(slower, 1e-9)))
    raise RuntimeError(f"extra work of {share:.0%} was asked for; what was inserted makes the case {slower:.1%} slower")


def with_products(run, x, elements, every):
    """The case with products of `elements` elements of x, one after the other, in one of `every` calls."""
    turns = itertools.cycle([True] + [False] * (every - 1))

    def both():
        run()
        if next(turns):
            for _ in range(elements // x.numel()):
                x.mul_(1.0)
            x[: elements % x.numel()].mul_(1.0)

    return both
