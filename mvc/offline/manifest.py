"""What was generated for a GPU: every launch in order, and every kernel with its resources."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mvc.arguments import require
from mvc.errors import UserError
from mvc.passes.measured_choice import Kernels

FORMAT = "mvc.offline/2"


@dataclasses.dataclass(frozen=True)
class Request:
    """What to generate.

    Attributes:
        variant: of MambaVision, or another name that `builder` knows.
        batch, height, width, dtype: of the images, channels_last, and of the parameters.
        training: whether to generate a backward too.
        passes: of the backend "mvc": "all", "none" (Inductor alone), or their names.
        frozen: the option for inference; what is computed once is not in the code.
        kernels: what runs products, convolutions and attention where a Triton kernel of mvc can: "own" or "library".
            Nothing can be timed without a card, so "measured" has no meaning.
        builder: "module:function" that makes the model, called with the arguments of `mvc.create_model`.
        autocast: in training, parameters and images are float32, and the model runs under autocast to `dtype`.
        recompute: the option for training; None is its default.
    """

    variant: str
    batch: int
    height: int
    width: int
    dtype: str
    training: bool = False
    passes: str | Sequence[str] = "all"
    frozen: bool = False
    kernels: Kernels = "own"
    builder: str = "mvc:create_model"
    autocast: bool = False
    recompute: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.passes, str):
            object.__setattr__(self, "passes", tuple(self.passes))  # JSON has lists
        wanted = "'own' or 'library', since nothing can be timed while code is generated for a card"
        require(self.kernels in ("own", "library"), "kernels", self.kernels, wanted)
        wanted = "for training in half precision alone"
        require(not self.autocast or (self.training and self.dtype != "float32"), "autocast", self.autocast, wanted)

    @property
    def stored(self) -> str:
        """The dtype of parameters and images."""
        return "float32" if self.autocast else self.dtype


@dataclasses.dataclass(frozen=True)
class Launch:
    """One call of the generated code that runs on the device.

    Attributes:
        kind: a kernel that Inductor generated ("triton"), a Triton kernel that the graph holds, as those of mvc.kernels
            ("own"), or a library's or ATen's op ("extern").
        name: the kernel's name in the generated code, or the op's with its overload.
        kernels: names in `Manifest.kernels` of what it launches; empty for an extern op.
        phase: the half of a training step to which it belongs.
        source: the lines of the model's code that it came from, that of its result first. Each is the innermost line
            outside of torch and mvc.kernels, after the line that calls it: "file:line: text > file:line: text".
        ops: the FX ops that it computes, in the order of `source`.
        reads, writes: bytes of each buffer, by its name in the generated code. A buffer counts once for each launch. Of
            a view that is passed to a call or an own kernel, the bytes that it shows count; the parts of a
            concatenation in place count under the name of the whole.
        flops: floating-point operations of matrix products, convolutions, attention and scans; a multiply-add is two.
        groups: of a convolution.
        steps: of a scan: how many each program computes one after another.
    """

    kind: Literal["triton", "own", "extern"]
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
        name: unique in the manifest; the files of source and binary have this name.
        warps: of a block.
        stages: of software pipelining.
        registers: of a thread.
        spills: bytes of local memory of a thread.
        shared: bytes of shared memory of a block.
        occupancy: warps of this kernel that an SM can hold, by registers and shared memory, over the most it can hold.
        size: bytes of the binary.
        sass: how often the binary has each instruction, where asked for.
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
class Memory:
    """Bytes of a training step's tensors. What libraries take for themselves, and what the allocator rounds up, is not
    counted.

    Attributes:
        inputs: of the forward: parameters, buffers and arguments.
        saved: what the forward keeps for the backward, besides its inputs.
        peak: the most that is alive at once, inputs and gradients included.
    """

    inputs: int
    saved: int
    peak: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything that was generated for one model, one input and one target.

    Attributes:
        target: a name in `mvc.offline.targets`.
        device: the GPU of the machine that generated the code, or "stand-in".
        model: the request.
        versions: of torch, triton and mvc.
        interfaces: for each phase, the parameters of the wrapper: "inputs", names in the graphs.
        inputs: of the forward, in order: the names of the model's tensors and arguments, and "constant 0" and so on.
        memory: of a training step.
    """

    target: str
    device: str
    model: Request
    versions: dict[str, str]
    launches: tuple[Launch, ...]
    kernels: dict[str, Kernel]
    interfaces: dict[str, dict[str, list[str]]]
    inputs: list[str]
    memory: Memory | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """The manifest in a folder of generated code.

        Raises:
            UserError: there is no manifest, or one of another format.
        """
        path = Path(folder) / "manifest.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts.pop("format") != FORMAT:
                raise KeyError("format")
            facts["model"] = Request(**facts["model"])
            facts["launches"] = tuple(_launch(each) for each in facts["launches"])
            facts["kernels"] = {name: Kernel(**each) for name, each in facts["kernels"].items()}
            if facts.get("memory") is not None:
                facts["memory"] = Memory(**facts["memory"])
            return cls(**facts)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}); generate code there first") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no manifest of format {FORMAT}; generate the code anew") from error


def _launch(facts: dict[str, Any]) -> Launch:
    return Launch(**{key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()})
