"""GPU code without a GPU: what is generated, where each launch came from, and what its binaries need."""

import ast
import dataclasses
import json
import math
import re

import pytest
import torch
from offline_sample import INFERENCE, sample
from torch import fx, nn

from mvc import create_model
from mvc.errors import UserError
from mvc.kernels.scan import api as scan
from mvc.measure import flops
from mvc.offline import codegen, device, estimate, kernels, torch_private
from mvc.offline.generate import generate
from mvc.offline.manifest import Manifest, Request
from mvc.offline.targets import TARGETS, find
from mvc.offline.torch_private import Code, Work

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


BROKEN_PASS = """
from mvc.offline.codegen import generate
from mvc.offline.manifest import Request
from mvc.passes.lowering.lower_scan import LowerScan

def broken(self, graph):
    raise RuntimeError("broken pass")

LowerScan.__call__ = broken
generate(Request("tiny", 1, 64, 64, "float16"))
"""

SCAN = """
import contextlib, json, torch
import mvc
from mvc.compile.backend import Options, compile_graph
from mvc.offline import codegen, torch_private

found = {}
for training, passes in ((False, ("lower_scan",)), (True, ("lower_scan",)), (True, "none")):
    def backend(graph, examples):
        compile_graph(graph, examples, Options.parse({"passes": passes, **torch_private.OPTIONS}))
        return codegen.not_run

    torch.compiler.reset()
    with torch_private.fake_mode(), torch.set_grad_enabled(training), torch_private.captured_code() as codes:
        shapes = (2, 300, 32), (2, 300, 32), (32, 8), (2, 300, 8), (2, 300, 8)
        tensors = [torch.empty(shape, device="cuda:0", requires_grad=True) for shape in shapes]
        with contextlib.suppress(torch_private.NotRun):
            torch.compile(mvc.selective_scan, backend=backend, fullgraph=True)(*tensors)
    for phase, code in zip(codegen.PHASES, codes, strict=training):
        launches = [each for each in codegen.launches_of(code, phase) if "_kernel_" in each.name]
        facts = [(each.name.rpartition("_")[0], each.reads, each.writes) for each in launches]
        found.setdefault(f"{training=}, {passes=}", []).append(facts)
print(json.dumps([*found.values()]))
"""

CONCATENATION = """
import contextlib, json, torch
from mvc.compile.backend import Options, compile_graph
from mvc.offline import codegen, torch_private

def f(x, w, v, u):
    a, b = torch.softmax(x @ w, -1), torch.softmax(x @ v, -1)
    return torch.cat([a, b, *(a + i for i in range(9))], 1) @ u

def backend(graph, examples):
    compile_graph(graph, examples, Options.parse({"passes": "none", **torch_private.OPTIONS}))
    return codegen.not_run

with torch_private.fake_mode(), torch.no_grad(), torch_private.captured_code() as codes:
    tensors = [torch.empty(size, 64, device="cuda:0") for size in (64, 64, 64, 11 * 64)]
    with contextlib.suppress(torch_private.NotRun):
        torch.compile(f, backend=backend, fullgraph=True)(*tensors)
launches = codegen.launches_of(codes[0], "forward")
print(json.dumps([(each.kind, each.reads, each.writes) for each in launches]))
"""

NAMES = ["triton_poi_fused_add_0", "extern_kernels.mm", "torch.ops.aten.topk.default"]


def test_launches_are_the_steps_of_the_schedule_in_order():
    steps = [
        Work("triton", NAMES[0], [], {"buf1": 8}, {"buf0": 4}),
        Work("extern", NAMES[1], [], {"buf0": 4, "arg0": 12}, {"buf1": 8}, 100),
        Work("extern", NAMES[2], [], {"buf1": 2}, {"buf2": 1}),
    ]
    launches = codegen.launches_of(Code(WRAPPER, steps, []), "forward")
    assert [(each.kind, each.name, each.bytes_read, each.flops) for each in launches] == [
        ("triton", "triton_poi_fused_add_0", 8, 0),
        ("extern", "extern_kernels.mm", 16, 100),
        ("extern", "torch.ops.aten.topk.default", 2, 0),
    ]


@pytest.mark.parametrize("names", [NAMES[:2], [NAMES[0], *NAMES[:0:-1]]], ids=["fewer", "swapped"])
def test_a_schedule_that_does_not_fit_the_wrapper_is_an_error(names):
    steps = [Work("triton" if name.startswith("triton") else "extern", name, [], {}, {}) for name in names]
    with pytest.raises(ValueError, match="schedule"):
        codegen.launches_of(Code(WRAPPER, steps, []), "forward")


def test_the_source_is_the_models_own_line_and_its_caller():
    frames = [
        (__file__, 1),
        (codegen.__file__, 1),
        (__file__, 3),
        (torch.nn.functional.__file__, 5849),
        (scan.__file__, 5),
    ]
    trace = "".join(f'  File "{file}", line {line}, in f\n    text\n' for file, line in frames)
    graph = fx.Graph()
    inner, torchs = graph.placeholder("x"), graph.placeholder("y")
    inner.meta["stack_trace"], torchs.meta["stack_trace"] = trace, trace.partition("File")[0]
    (launch, *_) = codegen.launches_of(
        Code(WRAPPER, [Work("extern", name, [inner, torchs], {}, {}) for name in NAMES], []), "forward"
    )
    first, second = launch.source[0].split(" > ")
    assert first.startswith('codegen.py:1: """Generates a model')
    assert second == "test_offline_codegen.py:3: import ast"
    assert len(launch.source) == 1


def test_reductions_that_a_kernel_leaves_in_parts_are_finished_by_launches():
    wrapper = """
            triton_red_0.run(buf1, buf2, workspace_0, 131072, 64, stream=raw_stream0)
            buf3 = workspace_0[0 * (2048) * (64) : (0 + 1) * (2048) * (64)].view(2048, 64).sum(dim=0).view([64])
            buf4 = workspace_0[1 * (8) * (4) : (1 + 1) * (8) * (4)].view(8, 4).amax(dim=0).view([4]).to(torch.float16)
            buf5 = reinterpret_tensor(workspace_0, (32768, 2), (2, 1), 0); del workspace_0  # reuse
    """
    assert list(codegen._launched(wrapper)) == ["triton_red_0", "Tensor.sum", "Tensor.amax", "Tensor.to"]


@pytest.mark.slow
@needs_device
def test_training_at_sizes_where_rows_and_columns_are_reduced_at_once(tmp_path):
    manifest = generate(Request("tiny", 8192, 64, 64, "float16", training=True), find("sm_90"), tmp_path, kernels=False)
    sums = [launch for launch in manifest.launches if launch.name == "Tensor.sum"]
    assert len(sums) > 0
    written = {name: size for launch in manifest.launches for name, size in launch.writes.items()}
    taken = [name for launch in sums for name in launch.reads]
    assert len(set(taken)) == len(taken), "each has parts of its own"
    assert all(written[name] == launch.reads[name] for launch in sums for name in launch.reads)
    for launch in manifest.launches:
        if launch.kind == "triton":
            assert not launch.reads.keys() & launch.writes.keys() - manifest_inputs(manifest), launch.name


def manifest_inputs(manifest):
    """What may be read and written by one launch: arguments that are updated in place."""
    return {name for interface in manifest.interfaces.values() for name in interface["inputs"]}


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
@pytest.mark.parametrize(
    "asked", [INFERENCE, Request("tiny", 2, 64, 64, "float16", training=True)], ids=["inference", "training"]
)
def test_a_model_becomes_a_manifest_of_launches_and_binaries(asked, generated, monkeypatch):
    folder = generated(asked, "sm_90", sass=not asked.training)
    manifest = Manifest.read(folder)
    assert manifest.model == asked
    # Its depthwise convolutions are no library calls in the generated code.
    monkeypatch.setattr(nn.Conv1d, "forward", lambda self, x: x)
    check_launches(manifest, folder)
    check_products(manifest)
    check_binaries(manifest, folder)


def check_launches(manifest, folder):
    phases = ["forward", "backward"][: 1 + manifest.model.training]
    assert list(dict.fromkeys(launch.phase for launch in manifest.launches)) == phases
    for phase in phases:
        ast.parse((folder / f"{phase}.py").read_text())
    scans = [launch for launch in manifest.launches if estimate.family(launch) == "scan"]
    assert {scan.kind for scan in scans} == {"own"}
    assert len([scan for scan in scans if scan.phase == "forward"]) == 2
    assert all(launch.bytes_read > 0 and launch.bytes_written > 0 for launch in scans)
    assert all("y = selective_scan(" in scan.source[0] for scan in scans if scan.phase == "forward")
    assert all(scan.flops > 0 for scan in scans)
    assert {scan.steps for scan in scans} == {4}, "windows of 2 x 2 tokens"
    concatenates = any("_cat_" in launch.name for launch in manifest.launches)
    assert concatenates == manifest.model.training, "in inference the scan writes into its half"
    made = {name for launch in manifest.launches for name in launch.writes}
    read = {name for launch in manifest.launches for name in launch.reads if name.startswith("buf")}
    assert read <= made, "elements of results and parts of concatenations are known by their names"


def check_products(manifest):
    """Those of libraries and of own kernels; with gradients only attention is one of the latter."""
    calls = [launch for launch in manifest.launches if launch.kind != "triton" and estimate.family(launch) != "scan"]
    assert {launch.kind for launch in calls} == {"extern", "own"}
    attention = [launch for launch in calls if "attention" in launch.name and launch.phase == "forward"]
    # Attention's backward computes its weights, half of the forward's work, once more; eager on "meta" keeps them.
    again = sum(launch.flops for launch in attention) // 2 if manifest.model.training else 0
    # Products of the time step that are joined with x_proj: (tokens, channels, rank).
    joined = () if manifest.model.training else ((32, 32, 4), (8, 64, 8))
    more = sum(2 * tokens * channels * (channels - 2 * rank) for tokens, channels, rank in joined)
    assert sum(launch.flops for launch in calls) == eager_flops(manifest.model) + again + more
    columns = 48 if joined else 20
    (projection,) = {
        (launch.bytes_read, launch.bytes_written)
        for launch in calls
        if launch.phase == "forward" and "x_proj" in launch.source[0] and launch.bytes_written == 2 * 32 * columns
    }
    half = 2 * (32 * 32 + 32 * columns), 2 * 32 * columns
    assert projection == half, "of 64 channels it reads the half that it is given"


def eager_flops(asked):
    changes = {"drop_path_rate": 0.0} if asked.training else {}
    model = create_model("tiny", device="meta", dtype=torch.float16, **changes).train(asked.training)
    x = torch.empty(asked.batch, 3, asked.height, asked.width, dtype=torch.float16, device="meta")

    def run():
        with torch.set_grad_enabled(model.training):
            scores = model(x)
            if model.training:
                scores.backward(torch.empty_like(scores))

    return flops.count(run)


def check_binaries(manifest, folder):
    for launch in manifest.launches:
        assert bool(launch.kernels) == (launch.kind != "extern"), launch.name
        assert set(launch.kernels) <= manifest.kernels.keys()
    for name, kernel in manifest.kernels.items():
        assert (folder / "cubins" / f"{name}.cubin").stat().st_size == kernel.size
        assert 0 < kernel.registers <= 255, name
        assert kernel.spills == 0, name
        assert 0 < kernel.occupancy <= 1, name
        assert manifest.model.training or kernel.sass["EXIT"] > 0


@pytest.mark.slow
@needs_device
def test_a_training_step_runs_each_scan_once(tmp_path):
    """Its forward keeps the states that its backward starts from; without gradients none are written. What the chunks
    of the backward change, they read."""
    from mvc.kernels.scan import triton_tiles

    done = device.run(["-c", SCAN], find("sm_90"), scratch=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    inference, training, without_passes = json.loads(done.stdout)
    assert training == without_passes
    names = [[name for name, *_ in launches] for launches in (*inference, *training)]
    assert names == [["forward_kernel"], ["forward_kernel"], ["summary_kernel", "combine_kernel", "backward_kernel"]]
    cut = triton_tiles.cut(2, 300, 32, 8, 1)
    state = 4 * 2 * 32 * 8  # bytes of a float32
    assert cut.kept_states >= 2
    y_and_last, with_kept = ([*launches[0][0][2].values()] for launches in (inference, training))
    assert y_and_last == [4 * 2 * 300 * 32, state]
    assert with_kept == [*y_and_last, cut.kept_states * state]
    (_, reads, writes), (_, of_backward, _) = training[1][1:]
    assert [*writes.values()] == [math.ceil(300 / cut.backward_chunk) * state]  # each chunk's own, which it replaces
    assert writes.items() <= reads.items()
    assert cut.kept_states * state in of_backward.values()


@pytest.mark.slow
@needs_device
def test_what_is_concatenated_in_place_counts_as_the_whole(tmp_path):
    done = device.run(["-c", CONCATENATION], find("sm_90"), scratch=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    launches = json.loads(done.stdout)
    kernels = [writes for kind, _, writes in launches if kind == "triton"]
    ((name, size),) = kernels[0].items()
    assert size == 4 * 64 * 64
    assert kernels[1] == {name: 10 * size}
    assert launches[-1][1][name] == 11 * size


@pytest.mark.slow
@needs_device
def test_a_pass_that_raises_is_an_error(tmp_path):
    done = device.run(["-c", BROKEN_PASS], find("sm_90"), scratch=tmp_path, timeout=120)
    assert done.returncode == 1
    assert "RuntimeError: broken pass" in done.stderr


@needs_device
def test_what_cannot_be_counted_is_an_error():
    assert torch_private._flops(None, "extern_kernels.topk") == 0
    with pytest.raises(RuntimeError, match=r"the FLOPs of aten\.convolution, which came from None, cannot be counted"):
        torch_private._flops(None, "aten.convolution")


def test_named_passes_are_the_same_in_a_manifest_that_was_read(tmp_path):
    manifest = sample(model=dataclasses.replace(sample().model, passes=["lower_scan"]))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.as_dict()))
    assert Manifest.read(tmp_path) == manifest


@needs_device
def test_what_cannot_be_generated_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"generating code for sm_90 failed: .*'nosuch'"):
        generate(Request("nosuch", 1, 64, 64, "float16"), find("sm_90"), tmp_path / "out")


def test_every_architecture_has_a_card_of_its_name():
    assert {name: target.architecture for name, target in TARGETS.items()} == {
        "sm_80": "sm_80",
        "sm_90": "sm_90",
        "h200": "sm_90",
        "sm_100": "sm_100",
    }


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
