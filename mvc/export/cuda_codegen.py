"""Generates a package for a GPU, in a process that has the stand-in device; `mvc.export.cuda` starts it.

`python -m mvc.export.cuda_codegen FOLDER PACKAGE` reads the model from the folder and writes the package. The memory of
the stand-in is the host's and nothing can be launched on it, so what has to be computed is computed on the CPU.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from mvc.export import cuda, guards
from mvc.export.sizes import Sizes, outside
from mvc.offline import child, device
from mvc.offline.torch_private import packaging_without_launches


def main(arguments: Sequence[str]) -> None:
    folder, path = map(Path, arguments)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    sys.path[:] = job["search"]
    model, example = torch.load(folder / "model.pt", weights_only=False)
    sizes = Sizes({name: (low, high) for name, (low, high) in job["ranges"].items()})
    with packaging_without_launches(device.toolkit(folder / "cuda")) as options:
        try:
            cuda.generate(
                model.cuda(),
                tuple(x.cuda() for x in example),
                path,
                sizes,
                frozen=job["frozen"],
                metadata=job["metadata"],
                kernels="library",
                evaluate=on_host,
                options=options,
            )
        except guards.Unserved as error:
            raise outside(str(error), sizes) from error


def on_host(graph_module: fx.GraphModule, tensors: Sequence[Tensor]) -> list[Tensor]:
    """What the graph computes from tensors on the stand-in, computed on the CPU."""
    graph_module = copy.deepcopy(graph_module)
    for node in graph_module.graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _to_host)
    graph_module.recompile()
    return [result.cuda() for result in graph_module(*(x.cpu() for x in tensors))]


def _to_host(argument: Any) -> Any:
    on_card = isinstance(argument, (torch.device, str)) and str(argument).partition(":")[0] == "cuda"
    return torch.device("cpu") if on_card else argument


if __name__ == "__main__":
    child.serve(main)
