"""Twelve families of models without scans: the passes never fail on them and leave their results as they were."""

import pytest
import torch

from mvc.passes import pipeline
from mvc.passes.frozen.freeze import freeze

timm = pytest.importorskip("timm")

# The smallest of each family.
MODELS = (
    "resnet10t",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
    "mobilenetv3_small_050",
    "efficientnet_lite0",
    "regnetx_002",
    "mambaout_femto",
    "poolformerv2_s12",
    "maxvit_pico_rw_256",
    "edgenext_xx_small",
    "coatnet_pico_rw_224",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_results_are_unchanged(name):
    """Frozen inference, the whole pipeline, strict: within ten times what float32 itself is off float64."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for module in model.modules():  # BatchNorms that do something
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    x = torch.randn(1, *model.default_cfg["input_size"])
    records = []

    def backend(graph_module, inputs):
        passes = pipeline.build(list(pipeline.PASSES), frozen=True)
        records.extend(pipeline.run(passes, graph_module, strict=True))
        return freeze(graph_module, inputs, lambda module, _: module.forward)

    torch.compiler.reset()
    with torch.no_grad():
        eager, oracle = model(x), model.double()(x.double())
        actual = torch.compile(model.float(), backend=backend, fullgraph=True)(x)
    assert not [record.name for record in records if record.fired and record.name.startswith(("raise", "lower"))]
    error, own_error = ((y.double() - oracle).norm() / oracle.norm() for y in (actual, eager))
    assert error <= 10 * own_error, [record.name for record in records if record.fired]
