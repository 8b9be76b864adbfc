"""From a model to an AOTInductor package for an NVIDIA GPU, on a machine that has this GPU or without one.

The package holds the binaries of its kernels, so that nothing is compiled where it is loaded. On the GPU, what
AOTInductor and mvc choose by time is chosen there. Without it the code is generated in a process that has a stand-in
for the card (`mvc.offline.device`): nothing is timed, so products, convolutions and attention are the libraries', and
of several configurations of a kernel the package has the first.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from mvc import files
from mvc.compile.backend import Options
from mvc.errors import UserError
from mvc.export import aot_inductor, program, torch_private
from mvc.export.isa import X86, here
from mvc.export.program import Evaluate
from mvc.export.sizes import Sizes
from mvc.offline import child, device
from mvc.offline.targets import Target, find
from mvc.patches import replaced

HOST = "baseline"  # the instruction set of the C++ around the kernels, which computes nothing
TIMEOUT = 3600.0  # seconds


def write(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    sizes: Sizes,
    *,
    frozen: bool,
    metadata: Mapping[str, str],
    target: str | None = None,
) -> None:
    """Write the package, whole or not at all.

    Args:
        model, example: on the GPU; where `target` is given, on any device.
        metadata: what the package says of itself, but for the device and the instruction set.
        target: the card that the package is for, a name of `mvc.offline.targets`; None for this machine's.

    Raises:
        UserError: an unknown card, a machine on which no code can be generated, or a model that cannot be captured,
            that does not serve the sizes, or that cannot be sent to the process that generates the code.
        guards.Unserved: the code holds for a part of the range alone.
    """
    card = None if target is None else find(target)
    with files.replacing(path, suffix=".pt2") as partial:
        if card is not None and device.present(card) is None:
            _elsewhere(model, example, partial, sizes, card, frozen=frozen, metadata=metadata)
            return
        if card is not None:
            model, example = copy.deepcopy(model).cuda(), tuple(x.cuda() for x in example)
        generate(model, example, partial, sizes, frozen=frozen, metadata=metadata)
        program.check_at_one(torch_private.load(partial), model, sizes.traceable(example), sizes)


def generate(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    sizes: Sizes,
    *,
    frozen: bool,
    metadata: Mapping[str, str],
    kernels: str = "measured",
    evaluate: Evaluate | None = None,
    options: Mapping[str, object] | None = None,
) -> None:
    """Write the package for the GPU that torch sees; the arguments are those of `write`, and:

    Args:
        kernels: as for `mvc.compile.backend.Options`.
        evaluate: as for `program.export`.
        options: of AOTInductor.
    """
    architecture = "sm_{}{}".format(*torch.cuda.get_device_capability(example[0].device))
    passes = Options.parse({"frozen": frozen, "kernels": kernels}).build_passes(inference=True)
    isa = HOST if here() in X86 else here()
    chosen = {
        "aot_inductor.package": True,
        "aot_inductor.embed_kernel_binary": True,
        "aot_inductor.metadata": {**metadata, "mvc.device": architecture, "mvc.isa": isa},
        **torch_private.unchecked_lower_bounds(),
        **(options or {}),
    }
    with _one_plan():
        made = program.export(model, example, sizes, passes=passes, frozen=frozen, evaluate=evaluate)
        aot_inductor.compile(made, path, chosen, isa=isa)


def check(architecture: str, path: str) -> None:
    """Raise UserError for a package whose kernels this machine's GPU cannot run.

    Args:
        architecture: what the package records as its device.
    """
    if not torch.cuda.is_available():
        raise UserError(f"{path} cannot run here: its code is for a GPU ({architecture}), and torch finds none")
    seen = "sm_{}{}".format(*torch.cuda.get_device_capability())
    if seen != architecture:
        raise UserError(
            f"{path} cannot run here: its code is for {architecture}, and this GPU is {seen}; export it for that"
        )


@contextmanager
def _one_plan() -> Iterator[None]:
    """Within the block a scan whose batch is unknown is planned for the example's: any plan serves any batch, and one
    chosen by a comparison would serve those of the same outcome alone."""
    from mvc.kernels.scan import triton_tiles

    cut = triton_tiles.cut

    def cut_for_example(batch: int, *others: int) -> triton_tiles.Cut:
        return cut(torch_private.size_in_example(batch), *others)._replace(batch=batch)

    with replaced(triton_tiles, "cut", cut_for_example):
        yield


def _elsewhere(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    sizes: Sizes,
    card: Target,
    *,
    frozen: bool,
    metadata: Mapping[str, str],
) -> None:
    """Generate the package in a process with the stand-in for the card."""
    device.require()
    _refuse_unsent(model)
    # Of the program, here, where tensors have values: the stand-in computes none.
    made = program.export(model, example, sizes, passes=(), frozen=False)
    program.check_ranks_at_one(made, model, sizes.traceable(example), sizes)
    program.check_at_one(made.module(), model, sizes.traceable(example), sizes)
    with tempfile.TemporaryDirectory(prefix="mvc-export-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        job = {"ranges": dict(sizes.ranges), "frozen": frozen, "metadata": dict(metadata), "search": sys.path}
        (scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
        try:
            torch.save((model, sizes.traceable(example)), scratch / "model.pt")
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(f"model cannot be sent to the process that generates code: {error}") from error
        arguments = ["-m", "mvc.export.cuda_codegen", str(scratch), str(path)]
        done = device.run(arguments, card, scratch=scratch, timeout=TIMEOUT)
    if done.returncode:
        raise UserError(f"generating code for {card.name} failed: {child.reason(done)}")


def _refuse_unsent(model: nn.Module) -> None:
    for module in model.modules():
        kind = type(module)
        if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
            raise UserError(
                f"model has a {kind.__name__}, whose class the process that generates code cannot import; "
                "define it in a module"
            )
