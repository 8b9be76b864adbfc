"""What was generated for a GPU: every launch in order, and every kernel with its resources."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mvc.errors import UserError

FORMAT = "mvc.offline/1"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is generated.

    Attributes:
        variant: of MambaVision, or what else `builder` knows.
        batch, height, width, dtype: of the images, channels_last.
        training: forward and backward.
        passes: of the backend "mvc": "all", "none", which is Inductor alone, or their names.
        frozen: of inference; what is computed once is not in the code.
        builder: "module:function" that makes the model, called as `mvc.create_model` is.
    """

    variant: str
    batch: int
    height: int
    width: int
    dtype: str
    training: bool = False
    passes: str | Sequence[str] = "all"
    frozen: bool = False
    builder: str = "mvc:create_model"

    def __post_init__(self) -> None:
        if not isinstance(self.passes, str):
            object.__setattr__(self, "passes", tuple(self.passes))  # JSON has lists


@dataclasses.dataclass(frozen=True)
class Launch:
    """One call of the generated code that runs on the device.

    Attributes:
        kind: a kernel that Inductor generated, one of the scan's kernels, or a library's or ATen's op.
        name: the kernel's name in the generated code, or the op's with its overload.
        kernels: names in `Manifest.kernels` of what it launches; empty for an extern op.
        phase: of a training step, which half it belongs to.
        source: lines of the model's code that it came from, that of its result first. Each is the innermost one outside
            of torch and the scan's kernels, after the line that calls it: "file:line: text > file:line: text".
        ops: the FX ops that it computes, in the order of `source`.
        reads, writes: bytes of each buffer, by its name in the generated code. A buffer counts once for each launch, of
            a view that a call or a scan takes what it shows; one that is concatenated in place under the name of the
            whole.
        flops: floating-point operations of matrix products, convolutions, attention and scans; a multiply-add is two.
        groups: of a convolution.
        steps: of a scan: how many each program takes one after another.
    """

    kind: Literal["triton", "scan", "extern"]
    name: str
    kernels: tuple[str, ...]
    phase: Literal["forward", "backward"]
    source: tuple[str, ...]
    ops: tuple[str, ...]
    reads: dict[str, int]
    writes: dict[str, int]
    flops: int
    groups: int = 1
    steps: int = 0

    @property
    def bytes_read(self) -> int:
        return sum(self.reads.values())

    @property
    def bytes_written(self) -> int:
        return sum(self.writes.values())

    @property
    def bytes_moved(self) -> int:
        return self.bytes_read + self.bytes_written


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One binary.

    Attributes:
        name: unique in the manifest; its source and its binary carry it.
        warps: of a block.
        stages: of software pipelining.
        registers: of a thread.
        spills: bytes of local memory of a thread.
        shared: bytes of shared memory of a block.
        occupancy: warps that an SM can hold over the most it can hold, by registers and shared memory.
        size: bytes of the binary.
        sass: how often each instruction stands in it, where asked for.
    """

    name: str
    warps: int
    stages: int
    registers: int
    spills: int
    shared: int
    occupancy: float
    size: int
    sass: dict[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All that was generated for one model, one input and one target.

    Attributes:
        target: a name in `mvc.offline.targets`.
        device: the GPU of the machine that generated it, or "stand-in".
        model: what was asked for.
        versions: of torch, triton and mvc.
        interfaces: for each phase, what the wrapper takes: "inputs", names in the graphs.
        inputs: of the forward, in order: the names of the model's tensors and arguments, and "constant 0" and so on.
    """

    target: str
    device: str
    model: Request
    versions: dict[str, str]
    launches: tuple[Launch, ...]
    kernels: dict[str, Kernel]
    interfaces: dict[str, dict[str, list[str]]]
    inputs: list[str]

    def as_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """The manifest in a folder that code was generated into.

        Raises:
            UserError: there is none, or it is not of this format.
        """
        path = Path(folder) / "manifest.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts.pop("format") != FORMAT:
                raise KeyError("format")
            facts["model"] = Request(**facts["model"])
            facts["launches"] = tuple(_launch(each) for each in facts["launches"])
            facts["kernels"] = {name: Kernel(**each) for name, each in facts["kernels"].items()}
            return cls(**facts)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); generate code there first") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no manifest of format {FORMAT}; generate the code anew") from error


def _launch(facts: dict[str, Any]) -> Launch:
    return Launch(**{key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()})
