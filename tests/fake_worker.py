"""Stands for the processes of the regression gate: times come from a rule instead of a clock."""

import itertools

import numpy as np

from mvc.regress.worker import CaseFailed, Facts


class FakeWorker:
    """Its sides are as slow as `slowness` says, by name; the facts `exact`, `compile_seconds`, `implementations`,
    `warnings`, `versions` and `clocks` are by name too.

    On CUDA a call takes 0.01 s on the device, and `host` times that until it is done: `host_slowness` by name, and a
    noise of its own, `call_noise`.
    """

    slowness: dict = {}  # noqa: RUF012 - set by the `fake` function
    host_slowness: dict = {}  # noqa: RUF012
    host: float = 1.05
    call_noise: float = 0.01
    clocks: dict = {}  # noqa: RUF012
    exact: dict = {}  # noqa: RUF012
    compile_seconds: dict = {}  # noqa: RUF012
    implementations: dict = {}  # noqa: RUF012
    warnings: dict = {}  # noqa: RUF012
    versions: dict = {}  # noqa: RUF012
    broken: set = set()  # noqa: RUF012
    message: str = "no such variant"
    noise: float = 0.01
    serial = itertools.count()

    def __init__(self, case, side, *, timed=True, slowdown=0.0, timeout=0.0):
        self.case, self.side, self.slowdown = case, side, slowdown
        self.draw = np.random.default_rng(next(self.serial))
        source = f"{side.tree or '/installed'}/mvc/__init__.py"
        clocks = self.clocks.get(side.name, ["graph", "kernels"]) if case.device == "cuda" else ["wall"]
        self.facts = Facts(
            exact=self.exact.get(side.name, {}),
            source=source,
            seconds=0.01,
            clocks=clocks,
            no_graph=None if clocks[0] in ("graph", "wall") else "it synchronizes",
            compile_seconds=self.compile_seconds.get(side.name),
            peak_bytes=10**9,
            implementations=self.implementations.get(side.name, [case.expected_scan] if case.expected_scan else []),
            warnings=self.warnings.get(side.name),
            versions=self.versions.get(side.name),
        )

    def wait_until_ready(self):
        if self.side.name in self.broken:
            raise CaseFailed(f"{self.side.name}: {self.message}")
        return self

    def time(self, calls, clock):
        assert clock in (*self.facts.clocks, "wall")
        seconds, noise = 0.01 * self.slowness.get(self.side.name, 1.0) * (1 + self.slowdown), self.noise
        if clock == "wall" and self.case.device == "cuda":
            seconds, noise = 0.01 * self.host * self.host_slowness.get(self.side.name, 1.0), self.call_noise
        return seconds * float(np.exp(self.draw.normal(0, noise)))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def fake(monkeypatch, **rules):
    """Let the gate start these instead of processes."""
    worker = type("FakeWorker", (FakeWorker,), {"serial": itertools.count(), **rules})
    for module in ("mvc.regress.run", "mvc.regress.compare", "mvc.regress.record"):
        monkeypatch.setattr(f"{module}.Worker", worker)
