"""One program for images of several sizes, and programs of torch.jit.trace for one."""

import io

import pytest
import torch
from torch import Tensor

from mvc.model.module import MambaVision, create_model

# Stage 4 of tiny has one window along an axis up to 64 pixels and several beyond, and a map of one token up to 32.
SIZES = [(96, 128), (80, 64), (64, 64), (33, 50), (80, 160), (224, 224)]


def images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> MambaVision:
    return create_model("tiny").eval()


@pytest.fixture(scope="module")
def program(model) -> torch.export.ExportedProgram:
    free = {
        0: torch.export.Dim("batch", min=1, max=64),
        2: torch.export.Dim("height", min=33, max=512),
        3: torch.export.Dim("width", min=33, max=512),
    }
    return torch.export.export(model, (images(2, 96, 128),), dynamic_shapes=(free,))


@pytest.mark.versions
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_one_program_serves_one_window_and_several(model, program, batch):
    """The module checks every assumption of the trace, and would raise."""
    run = program.module()
    with torch.no_grad():
        for size in SIZES:
            x = images(batch, *size)
            torch.testing.assert_close(run(x), model(x), msg=lambda text, x=x: f"{tuple(x.shape)}: {text}")


@pytest.mark.versions
def test_compiled_code_has_the_form_whose_sizes_inductor_computes_in_seconds(model):
    graphs = []

    def keep(graph_module, inputs):
        graphs.append(graph_module)
        return graph_module.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend=keep, dynamic=True, fullgraph=True)(images(2, 96, 128))
    torch._dynamo.reset()
    assert not graphs[0].graph.find_nodes(op="call_method", target="clone")


def test_a_traced_model_serves_every_batch_and_refuses_another_size(model):
    with pytest.warns(torch.jit.TracerWarning):
        traced = torch.jit.trace(model, images(2, 96, 128))
    saved = io.BytesIO()
    torch.jit.save(traced, saved)
    saved.seek(0)
    loaded = torch.jit.load(saved)
    with torch.no_grad():
        for batch in (1, 2, 5):
            x = images(batch, 96, 128)
            torch.testing.assert_close(loaded(x), model(x))
        with pytest.raises(RuntimeError, match="expanded size"):
            loaded(images(2, 128, 96))  # as many pixels
