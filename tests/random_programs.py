"""Random programs with recurrences in them, as source text that a seed gives again."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
from collections.abc import Iterator, Sequence

from program_parts import (
    ACCESS,
    AFTERWARDS,
    BEHIND,
    COLLECTORS,
    CONTEXTS,
    DECORATORS,
    ESCAPES,
    GATES,
    INITIALS,
    ORDERS,
    PREPARATIONS,
    PROGRAM,
    READ_OUTS,
    REGIONS,
    SECOND_UPDATES,
    SELECTIVE_READ_OUTS,
    STATES_READ_OUTS,
    STEP_EXTRAS,
    UPDATES,
    WRITES,
)


@dataclasses.dataclass(frozen=True)
class Program:
    """A program as text: its `inputs(seed)` gives what `caller(run, *inputs)` takes, where `run` is `program`.

    Attributes:
        features: what it has beyond the plainest program, to count, and to leave out of another with the same seed.
        dtype: the least precise in which it computes, but for autocast's.
    """

    seed: int
    source: str
    features: tuple[str, ...]
    dtype: str


def generate(seed: int, without: frozenset[str] = frozenset()) -> Program:
    """The program of a seed; features in `without` are left out, while all others stay as they are."""
    return _Writer(seed, without).program()


class _Choices:
    """Each choice has a stream of random numbers of its own, so that leaving out one leaves the others as they are."""

    def __init__(self, seed: int, without: frozenset[str]) -> None:
        self.seed, self.without = seed, without
        self.features: dict[str, None] = {}

    def stream(self, name: str) -> random.Random:
        return random.Random(f"{self.seed} {name}")

    def has(self, name: str, chance: float) -> bool:
        chosen = name not in self.without and self.stream(name).random() < chance
        if chosen:
            self.features[name] = None
        return chosen

    def pick(self, name: str, options: Sequence[str], plainest: float = 0.0) -> str:
        """One of the options; any but the first is a feature. `plainest`: chance of the first beyond its share."""
        draw = self.stream(name)
        option = options[0] if draw.random() < plainest else draw.choice(options)
        feature = f"{name}: {option}"
        if option == options[0] or feature in self.without:
            return options[0]
        self.features[feature] = None
        return option


class _Writer(_Choices):
    def __init__(self, seed: int, without: frozenset[str]) -> None:
        super().__init__(seed, without)
        self.creations: list[str] = []  # the body of `inputs`
        self.arguments: list[str] = []
        self.lines: list[str] = []  # the body of `program`
        self.functions: list[str] = []
        self.depth = 1

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    @contextlib.contextmanager
    def block(self, header: str) -> Iterator[None]:
        """What is written inside stands in this block; in none where the header is empty."""
        if header:
            self.line(f"{header}:")
        self.depth += bool(header)
        yield
        self.depth -= bool(header)

    def context(self, name: str, chance: float) -> contextlib.AbstractContextManager:
        return self.block(f"with {self.pick(name, CONTEXTS)}" if self.has(f"{name} is set", chance) else "")

    def program(self) -> Program:
        self.length = self.stream("length").choice((3, 3, 4, 4, 5, 6, 9))
        self.form = self.pick("form", ("loop", "tree", "tree", "scan", "associative"), plainest=0.7)
        self.selective = self.has("selective", 0.35)
        self.in_step = self.selective and self.form == "loop" and self.has("discretised in the step", 0.4)
        # torch's gradients of a pointwise scan whose products are unused are wrong.
        self.gradients = self.form != "associative" and self.has("gradients", 0.55)
        sizes = self.stream("sizes")
        self.state = [sizes.choice((2, 3, 4)) for _ in range(3 if self.selective else sizes.randint(1, 3))]
        self.dim = 1 if self.selective else sizes.randint(0, len(self.state))
        with self.context("around", 0.2):
            self.sequences()
            self.loops() if self.form == "loop" else self.scans()
            if behind := self.has("behind the region", 0.5):
                self.behind()
        if not behind:
            self.behind()
        self.line("return results")
        dtype = self.pick("dtype", ("float64", "float32", "bfloat16", "complex64", "int64"), plainest=0.75)
        body = "\n".join(self.lines)
        if "graph_break" in body or "range(0, T, 2)" in body:  # half filled, it would be a result
            body = body.replace("torch.empty(", "torch.zeros(")
        if dtype == "float64" and "autocast" in body:
            dtype = "float32"  # autocast leaves float64 alone
        decorator = self.pick("decorator", DECORATORS, plainest=0.85)
        source = PROGRAM.format(
            title=f"seed {self.seed}: {'; '.join(self.features)}",
            length=self.length,
            dtype=dtype,
            creations="\n    ".join(self.creations),
            arguments=", ".join(self.arguments),
            functions="".join(self.functions),
            decorator=decorator and f"{decorator}\n",
            body=body,
            afterwards="".join(
                f"    {self.pick(f'afterwards {i}', AFTERWARDS)}\n" for i in range(2) if self.has(f"caller {i}", 0.25)
            ),
        )
        rounded = dtype == "float64" and ".float()" in body
        return Program(self.seed, source, tuple(self.features), "float32" if rounded else dtype)

    # What stands before the recurrence.

    def argument(self, name: str, creation: str) -> None:
        self.arguments.append(name)
        self.creations.append(f"{name} = {creation}")

    def flags(self, name: str) -> str:
        if not self.gradients or not self.has(f"{name} requires grad", 0.6):
            return ""
        return ", grad=True, inside=True" if self.has(f"{name} is no leaf", 0.3) else ", grad=True"

    def tensor(self, name: str, shape: list[int]) -> None:
        """An argument of that shape, or one from which the program makes it."""
        flags, draw = self.flags(name), self.stream(f"axes of {name}")

        def made(sizes: Sequence[int]) -> str:
            return f"random({', '.join(map(str, sizes))}{flags})"

        axis, order = draw.randrange(len(shape)), draw.sample(range(len(shape)), len(shape))
        permuted, inverse = [shape[place] for place in order], [order.index(place) for place in range(len(shape))]
        wider = [size + 2 * (place == axis) for place, size in enumerate(shape)]
        one = [1 if place == axis else size for place, size in enumerate(shape)]
        strides = [math.prod(shape[place + 1 :]) for place in range(len(shape))]
        colons, count = ":, " * axis, math.prod(shape)
        ways = {
            "plain": (made(shape), ""),
            "permuted memory": (f"{made(permuted)}.permute({inverse})", ""),
            "slice of more": (f"{made(wider)}[{colons}1:-1]", ""),
            "expanded": (f"{made(one)}.expand({shape})", ""),
            "shared memory": (f"{self.arguments[0]}.detach()" if self.arguments else made(shape), ""),
            "view": (made([count]), f"{name}.view({shape})"),
            "unflatten": (made([*shape[:-2], math.prod(shape[-2:])]), f"{name}.unflatten(-1, {shape[-2:]})"),
            "permute": (made(permuted), f"{name}.permute({inverse})"),
            "slice": (made(wider), f"{name}[{colons}1:-1]"),
            "narrow": (made(wider), f"{name}.narrow({axis}, 0, {shape[axis]})"),
            "expand": (made(one), f"{name}.expand({shape})"),
            "as_strided": (made([count + 3]), f"{name}.as_strided({shape}, {strides}, 2)"),
            "select": (made([2, *shape]), f"{name}[1]"),
            "chunk": (made([2 * shape[0], *shape[1:]]), f"{name}.chunk(2)[1]"),
            "elementwise": (made(shape), f"{name} * 0.5 + 0.1"),
            "flip": (made(shape), f"{name}.flip({axis})"),
            "written": (made(shape), f"{name}.mul_(0.5)"),
            "copied": (made(shape), f"{name}.clone().mul_(0.5)"),
            "without gradient": (made(shape), f"magnitude({name})"),
            "reshape": (made(permuted), f"{name}.permute({inverse}).reshape(-1).view({shape})"),
            "out": (made(shape), f"torch.mul({name}, 0.5, out=torch.zeros_like({name}))"),
            "index_fill_": (made(shape), f"{name}.clone().index_fill_(0, torch.tensor([0]), 0.5)"),
        }
        creation, line = ways[self.pick(f"{name} is made", list(ways), plainest=0.5)]
        self.argument(name, creation)
        if line:
            self.line(f"{name} = {line}")

    def sequences(self) -> None:
        """The arguments, and from them the factors and offsets of all steps, unless the steps compute them."""
        if self.selective:
            batch, channels, states = self.state
            shapes = {"u": channels, "delta": channels, "B": states, "C": states}
            for name, size in shapes.items():
                self.tensor(name, [batch, self.length, size])
            self.argument("A", f"-random({channels}, {states}{self.flags('A')})")
            if not self.in_step:
                self.line("a = torch.exp(delta.unsqueeze(-1) * A)")
                self.line("b = (delta * u).unsqueeze(-1) * B.unsqueeze(2)")
        else:
            for name in ("a", "b", "c"):
                self.tensor(name, [*self.state[: self.dim], self.length, *self.state[self.dim :]])
        initial = self.pick("initial", INITIALS)
        if initial in ("", "h = h * 2"):
            self.tensor("h", self.state)
        if initial:
            self.line(initial.format(like=self.arguments[0], state=self.state))
        self.argument("w", f"random({self.state[-1]}, {self.state[-1]})")
        self.argument("buffer", f"random(*{self.state})")

    # The recurrence.

    def loops(self) -> None:
        """A loop, in place or in a function of its own, which may run twice."""
        start = len(self.lines)
        self.loop()
        if not self.has("loop in a function", 0.15):
            return
        depth, lines = self.depth, self.lines[start:]
        del self.lines[start:]
        body = "\n".join(line[4 * (depth - 1) :] for line in lines)
        names = list(dict.fromkeys([*("" if self.in_step else "ab"), *self.arguments, "h"]))
        decorator = self.pick("loop's decorator", DECORATORS)
        header = f"def recurrence({', '.join(names)}):"
        self.functions.append(f"{decorator}\n{header}\n{body}\n    return results, kept\n\n\n".lstrip())
        region = self.pick("region", REGIONS, plainest=0.5)
        self.line(f"results, kept = {region.format(names=', '.join(names), first=names[0])}")
        if self.has("called twice", 0.3):
            self.line(f"results, kept = recurrence({', '.join(names[:-1])}, results[1])")
        self.line("y, h = results[:2]")

    def loop(self) -> None:
        order = self.pick("order", ORDERS, plainest=0.6)
        inner = "1, T" in order
        two = self.has("two recurrences", 0.2)
        self.line("out, second, kept, total = [], [], [], 0")
        if two:
            self.line("g = h")
        if self.selective:
            output, shape = self.pick("selective read-out", SELECTIVE_READ_OUTS), self.state[:2]
        else:
            output = self.pick("read-out", list(READ_OUTS), plainest=0.2)
            shape = READ_OUTS[output](self.state)
        collector = self.pick("collector", list(COLLECTORS), plainest=0.4)
        place = self.stream("collector's axis").randint(0, len(shape))
        names = {
            "place": place,
            "colons": ":, " * place,
            "step": "t - 1" if inner else "t",
            "full": [*shape[:place], self.length - 2 * inner, *shape[place:]],
            "dtype": "torch.float32" if ".float()" in output else "dtype",
            "output": self.named(output),
        }
        ahead, inside, behind = (part.format(**names) for part in COLLECTORS[collector])
        if ahead:
            self.line(ahead)
        with self.block(f"for t in {order}"), self.context("around a step", 0.05):
            self.pieces()
            with self.context("around the preparation", 0.2):
                if self.features.keys() & {"around the preparation is set"}:
                    self.line(self.named(self.pick("preparation", PREPARATIONS)))
            if self.has("more in a step", 0.25):
                self.line(self.named(self.pick("extra", STEP_EXTRAS)))
            if early := self.has("collected before the update", 0.05):
                self.line(inside)
            with self.context("around the update", 0.05):
                first = "b_t if not kept else " if self.has("first step apart", 0.06) else ""
                self.line(f"h = {first}{self.named(self.pick('update', UPDATES, 0.8 if self.selective else 0.3))}")
                if two:
                    self.line(f"g = {self.named(self.pick('second update', SECOND_UPDATES))}")
            if not early:
                with self.context("around the read-out", 0.05):
                    self.line(inside)
            if output == "{h}" and collector in ("empty", "new_zeros") and self.has("read back", 0.4):
                self.line(f"h = {inside.partition(' = ')[0]}")
            if again := self.has("second read-out", 0.2):
                second = "{h}.sum(-1)" if self.selective else self.pick("second", list(READ_OUTS))
                self.line(f"second.append({self.named(second)})")
            if pooled := self.has("pooled", 0.08):
                self.line("total = total + h")
            self.line("kept.append(h)")
        if behind:
            self.line(behind)
        self.line(f"results = [y, h{', torch.stack(second)' * again}{', g' * two}{', total' * pooled}]")

    def pieces(self) -> None:
        """The slices of one step."""
        against = "T - 1 - t" if self.has("mixed directions", 0.08) else "t"
        names = ("u", "delta", "B", "C") if self.in_step else ("a", "b", "C" if self.selective else "c")
        access = ACCESS[self.pick("access", list(ACCESS), plainest=0.3)]
        for name in names:
            rank = len(self.state) if name in "abc" else 2
            t = against if name == names[0] else "t"
            trailing = ", :" * (rank - self.dim)
            self.line(
                f"{name}_t = " + access.format(s=name, t=t, dim=self.dim, colons=":, " * self.dim, trailing=trailing)
            )
        if self.in_step:
            self.line("a_t = torch.exp(delta_t.unsqueeze(-1) * A)")
            self.line("b_t = (delta_t * u_t).unsqueeze(-1) * B_t.unsqueeze(1)")

    def named(self, text: str) -> str:
        return text.format(h="h", a="a_t", b="b_t", c="a_t" if self.selective else "c_t", C="C_t")

    def scans(self) -> None:
        reverse = self.has("reverse", 0.3)
        if self.form == "scan":
            self.line(f"h, states = scan(step, h, (a, b), dim={self.dim}, reverse={reverse})")
        else:
            options = (
                f"dim={self.dim}, reverse={reverse}, combine_mode={'generic' if self.form == 'tree' else 'pointwise'!r}"
            )
            self.line(f"states = associative_scan(combine, (a, b), {options})[1]")
            self.line(f"h = states.select({self.dim}, {0 if reverse else -1})")
        self.line(f"kept = list(states.unbind({self.dim}))")
        read_outs = STATES_READ_OUTS[self.selective]
        self.line(f"y = {self.pick('read-out of all', read_outs)}")
        if self.selective and self.has("epilogue", 0.4):
            self.line(self.pick("gate", GATES))
        self.line("results = [y, h]")

    # What stands behind.

    def behind(self) -> None:
        for place in range(3):
            if self.has(f"behind {place}", 0.35):
                target = "y" if self.has(f"output {place}", 0.8) else "h"
                self.line(self.pick(f"then {place}", BEHIND).format(y=target))
                self.line("results[:2] = [y, h]")
        for place in range(2):
            if self.has(f"write {place}", 0.15):
                write = self.pick(f"writes {place}", WRITES).format(dim=self.dim)
                # torch's scan does not notice writes to what it keeps for its backward: its gradients are wrong then.
                if not (self.form == "scan" and self.gradients and write.startswith(("a.", "b."))):
                    self.line(write)
        for place in range(2):
            if self.has(f"escape {place}", 0.3):
                self.line(f"results.append({self.pick(f'escaping {place}', ESCAPES)})")
        if self.has("last state kept back", 0.3):
            self.line("del results[1]")
