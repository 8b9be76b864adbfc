"""GPU code without a GPU: what is generated, where each launch came from, and what its binaries need."""

import ast
import re

import pytest
import torch

from mvc import create_model
from mvc.errors import UserError
from mvc.offline import codegen, device, kernels
from mvc.offline.codegen import Request
from mvc.offline.generate import generate
from mvc.offline.manifest import Manifest
from mvc.offline.targets import TARGETS, find
from mvc.offline.torch_private import Code, Step

needs_device = pytest.mark.skipif(device.why_not() is not None, reason=str(device.why_not()))

WRAPPER = """
triton_poi_fused_add_0 = async_compile.triton('triton_', '''
def triton_(x):
    pass
''', device_str='cuda')

def call(args):
        triton_poi_fused_add_0.run(buf0, 4, stream=raw_stream0)
        extern_kernels.mm(buf0, arg0, out=buf1)
        buf2 = torch.ops.aten.topk.default(buf1, 3)
        buf3 = buf2[0]
"""


def test_launches_are_the_steps_of_the_schedule_in_order():
    steps = [
        Step("triton", [], {"buf1": 8}, {"buf0": 4}),
        Step("extern", [], {"buf0": 4, "arg0": 12}, {"buf1": 8}, 100),
        Step("extern", [], {"buf1": 2}, {"buf2": 1}),
    ]
    launches = codegen.launches_of(Code(WRAPPER, steps, [], []), "forward")
    assert [(each.kind, each.name, each.bytes_read, each.flops) for each in launches] == [
        ("triton", "triton_poi_fused_add_0", 8, 0),
        ("extern", "extern_kernels.mm", 16, 100),
        ("extern", "torch.ops.aten.topk.default", 2, 0),
    ]


@pytest.mark.parametrize("kinds", [["triton", "extern"], ["extern", "triton", "extern"]], ids=["fewer", "other order"])
def test_a_schedule_that_does_not_fit_the_wrapper_is_an_error(kinds):
    with pytest.raises(RuntimeError, match="schedule"):
        codegen.launches_of(Code(WRAPPER, [Step(kind, [], {}, {}) for kind in kinds], [], []), "forward")


def test_kernels_are_found_in_a_wrapper():
    ((name, function, source),) = kernels.sources(WRAPPER)
    assert (name, function) == ("triton_poi_fused_add_0", "triton_")
    assert source.strip() == "def triton_(x):\n    pass"


@pytest.mark.parametrize(
    ("warps", "registers", "shared", "expected"),
    [
        (4, 32, 0, 1.0),
        (4, 128, 0, 0.25),  # 65536 / (128 * 32) = 16 warps of 64
        (4, 33, 0, 0.75),  # given out as 40: 51 warps, in blocks of 4 48
        (8, 32, 100 * 1024, 0.25),  # two blocks of the shared memory
        (1, 32, 0, 0.5),  # 32 blocks at most
    ],
)
def test_occupancy(warps, registers, shared, expected):
    assert kernels.occupancy(find("sm_90"), warps=warps, registers=registers, shared=shared) == expected


@pytest.mark.slow
@needs_device
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_a_model_becomes_a_manifest_of_launches_and_binaries(training, tmp_path):
    asked = Request("tiny", 2, 64, 64, "float16", training=training, frozen=not training)
    manifest = generate(asked, find("sm_90"), tmp_path, sass=not training)
    assert Manifest.read(tmp_path) == manifest
    check_launches(manifest, tmp_path)
    check_binaries(manifest, tmp_path)


def check_launches(manifest, folder):
    phases = ["forward", "backward"][: 1 + manifest.model["training"]]
    assert list(dict.fromkeys(launch.phase for launch in manifest.launches)) == phases
    for phase in phases:
        ast.parse((folder / f"{phase}.py").read_text())
    scans = [launch for launch in manifest.launches if launch.kind == "scan"]
    assert len([scan for scan in scans if scan.phase == "forward"]) == 2
    assert all(launch.bytes_read > 0 and launch.bytes_written > 0 for launch in scans)
    assert all("y = selective_scan(" in scan.source[0] for scan in scans if scan.phase == "forward")
    assert all(scan.flops > 0 for scan in scans)
    concatenates = any("_cat_" in launch.name for launch in manifest.launches)
    assert concatenates == manifest.model["training"], "in inference the scan writes into its half"
    assert sum(launch.flops for launch in manifest.launches) > 0


def check_binaries(manifest, folder):
    for launch in manifest.launches:
        assert bool(launch.kernels) == (launch.kind != "extern"), launch.name
        assert set(launch.kernels) <= manifest.kernels.keys()
    for name, kernel in manifest.kernels.items():
        assert (folder / "cubins" / f"{name}.cubin").stat().st_size == kernel.size
        assert 0 < kernel.registers <= 255, name
        assert kernel.spills == 0, name
        assert 0 < kernel.occupancy <= 1, name
        assert manifest.model["training"] or kernel.sass["EXIT"] > 0


@needs_device
def test_what_cannot_be_generated_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"generating code for sm_90 failed: .*'nosuch'"):
        generate(Request("nosuch", 1, 64, 64, "float16"), find("sm_90"), tmp_path / "out")


def test_targets_are_named_as_their_architecture():
    assert [target.compute_capability for target in TARGETS.values()] == [80, 90, 100]
    assert all(name == f"sm_{target.compute_capability}" for name, target in TARGETS.items())


def own_target():
    """The target that this machine's GPU is, or why there is none."""
    if not torch.cuda.is_available():
        return None, "needs a CUDA device"
    same = [target for target in TARGETS.values() if target.capability == torch.cuda.get_device_capability()]
    return (same[0], "") if same else (None, f"no target is a {torch.cuda.get_device_name()}")


@pytest.mark.gpu
@pytest.mark.skipif(own_target()[0] is None, reason=own_target()[1])
@needs_device
def test_on_a_gpu_the_kernels_that_run_are_those_of_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "present", lambda target: None)  # generated with the stand-in
    manifest = generate(Request("tiny", 2, 64, 64, "float16", frozen=True), own_target()[0], tmp_path, kernels=False)
    model = create_model("tiny", device="cuda", dtype=torch.float16).eval()
    x = torch.randn(2, 3, 64, 64, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
    with torch.no_grad():
        compiled = torch.compile(model, backend="mvc", options={"frozen": True}, fullgraph=True)
        compiled(x)  # computes the constants, and chooses configurations
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
            compiled(x)
            torch.cuda.synchronize()
    ran = [event for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    ran = [unnumbered(event.name) for event in sorted(ran, key=lambda event: event.time_range.start)]
    foreseen = [unnumbered(launch.name) for launch in manifest.launches if launch.kind != "extern"]
    assert [name for name in ran if name in foreseen or name.startswith("triton_")] == foreseen


def unnumbered(name):
    return re.sub(r"_\d+$", "", name)
