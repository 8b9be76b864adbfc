"""The generated GPU code on CPU tensors: it computes what eager does, and a changed number in it is found out."""

import re
import shutil

import pytest
import torch
from offline_sample import INFERENCE
from places import ROOT

from mvc.errors import UserError
from mvc.offline import device
from mvc.offline.generate import generate
from mvc.offline.manifest import Request
from mvc.offline.replay import _limits, replay
from mvc.offline.targets import find

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(device.why_not() is not None, reason=str(device.why_not())),
]

# What is changed: the wrapper, where it stands there, and what takes its place, once.
MUTATIONS = {
    "epsilon of a LayerNorm": ("forward", r"1e-05, tl\.float32", "1e-02, tl.float32"),
    "base of the decay": ("forward", r"1\.4426950408889634", "1.4326950408889634"),
    "constant of GELU": ("forward", r"0\.7071067811865476, tl\.float32", "0.7171067811865476, tl.float32"),
    "tap of a convolution": ("forward", r"tl\.load\(in_ptr1 \+ \(1 \+ 3\*x0\)", "tl.load(in_ptr1 + (3*x0)"),
    "width of a LayerNorm": ("forward", r"64\.0, tl\.float32", "63.0, tl.float32"),
    "sign of the skip connection": ("forward", r"CH, S\) \+ b_D \* b_x", "CH, S) - b_D * b_x"),
}
# Of those, what is beyond the roundings of float16; and in kernels of mvc, which run in half precision alone.
MUTATIONS_FLOAT16 = {
    "tap of a convolution": MUTATIONS["tap of a convolution"],
    "sign of the skip connection": MUTATIONS["sign of the skip connection"],
    "variance of a product's LayerNorm": ("forward", r"rsqrt\(tl\.maximum\(", "rsqrt(0.98 * tl.maximum("),
    "residual of a product": (
        "forward",
        r"(?s)^(.*)y \+= tl\.load\(q_residual",  # of the last kernel, which has one
        r"\1y -= tl.load(q_residual",
    ),
}
MUTATIONS_TRAINING = {
    "momentum of running statistics": ("forward", r"0\.1, tl\.float32", "0.11, tl.float32"),
    "slope of GELU": ("backward", r"0\.3989422804014327, tl\.float32", "0.4189422804014327, tl.float32"),
    "a gradient that is zero": ("backward", r"sum_D \+ tl\.sum\(b_grad_y \* b_x, 0\)", "sum_D"),
    "decay of the scan's backward": ("backward", r"v = step\(a, j, G\) \* f", "v = f"),
}

# Passes that change GPU code, without the others, on the model where they find something.
OURS, PUBLISHED = "tests.offline_sample:one_of_each", "bench.published:create_model"
ALONE = (
    (OURS, ("lower_scan",)),
    (OURS, ("lower_scan", "fuse_batch_norm")),
    (OURS, ("lower_scan", "fuse_delta_bias")),
    (OURS, ("lower_scan", "join_depthwise")),
    (OURS, ("lower_scan", "join_depthwise", "fuse_cat")),
    (OURS, ("lower_scan", "fuse_depthwise")),
    (OURS, ("lower_scan", "fuse_bias")),
    (OURS, ("lower_scan", "lower_gelu")),
    (PUBLISHED, ("lower_scan", "fuse_depthwise")),
    (PUBLISHED, ("lower_scan", "fuse_movement")),
)
OWN = ("join_linear", "fuse_linear", "fuse_convolution")  # in half precision; this model has no attention


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Where the processes find the builders."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def code(generated):
    return generated(Request("tiny", 2, 64, 64, "float32", frozen=True), "sm_90", kernels=False)


def changed(code, mutations, folder):
    """Copies of the code with one change each."""
    for index, (phase, pattern, replacement) in enumerate(mutations.values()):
        copy = shutil.copytree(code, folder / str(index))
        wrapper, count = re.subn(pattern, replacement, (copy / f"{phase}.py").read_text(), count=1)
        assert count == 1, f"{pattern} is not in the {phase} wrapper"
        (copy / f"{phase}.py").write_text(wrapper)
        yield copy


def test_generated_code_computes_what_eager_does_and_changes_are_caught(code, tmp_path):
    right, *wrong = replay(code, *changed(code, MUTATIONS, tmp_path))
    assert right.passed, right
    assert right.error < 1e-6
    assert right.tolerance == 1e-5
    assert [name for name, each in zip(MUTATIONS, wrong, strict=True) if each.passed] == []


@pytest.mark.parametrize(
    ("request_", "target", "options", "mutations"),
    [
        (INFERENCE, "sm_90", {"sass": True}, MUTATIONS_FLOAT16),
        (Request("tiny", 4, 32, 32, "float16", training=True), "sm_80", {"kernels": False}, MUTATIONS_TRAINING),
    ],
    ids=["inference", "training"],
)
def test_changes_are_caught_in_float16(request_, target, options, mutations, generated, tmp_path):
    code = generated(request_, target, **options)
    right, *wrong = replay(code, *changed(code, mutations, tmp_path))
    assert right.passed, right
    assert [name for name, each in zip(mutations, wrong, strict=True) if each.passed] == []


def test_the_code_is_right_after_each_pass(tmp_path):
    folders, launches = [], []
    alone = [("float32", *each) for each in ALONE] + [("float16", OURS, ("lower_scan", name)) for name in OWN]
    for dtype, builder, passes in alone:
        asked = Request("tiny", 2, 64, 64, dtype, frozen=True, passes=passes, builder=builder)
        folders.append(tmp_path / str(len(folders)))
        manifest = generate(asked, find("sm_90"), folders[-1], kernels=False)
        launches.append(tuple(launch.name for launch in manifest.launches))
    assert len(set(launches)) == len(alone), "each leaves its mark"
    assert [each for each in replay(*folders) if not each.passed] == []


@pytest.mark.parametrize(
    "request_",
    [
        Request("tiny", 2, 64, 64, "float32", training=True),
        Request("tiny", 2, 64, 64, "bfloat16", training=True),
        Request("tiny", 2, 64, 64, "float16", training=True, autocast=True),
    ],
    ids=["training", "training-bfloat16", "training-autocast"],
)
def test_other_dtypes_and_gradients_are_within_budget(request_, tmp_path):
    generate(request_, find("sm_80"), tmp_path, kernels=False)
    (seen,) = replay(tmp_path)
    assert seen.passed, seen
    assert seen.eager_error > 0


def test_the_kernels_of_t_at_batch_1(tmp_path):
    asked = Request("T", 1, 224, 224, "float16", frozen=True, builder="tests.offline_sample:both_mixers")
    generate(asked, find("sm_90"), tmp_path, kernels=False)
    (seen,) = replay(tmp_path)
    assert seen.passed, seen


def test_code_that_raises_is_one_sentence(code, tmp_path):
    folder = shutil.copytree(code, tmp_path / "code")
    wrapper = (folder / "forward.py").read_text()
    (folder / "forward.py").write_text(f"raise RuntimeError('broken')\n{wrapper}")
    with pytest.raises(UserError, match=r"the generated code cannot be replayed: RuntimeError: broken"):
        replay(folder)


def test_a_folder_without_code_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read .*generate code there first"):
        replay(tmp_path)


def test_a_machine_that_cannot_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "why_not", lambda: "torch is 3.1.0")
    with pytest.raises(UserError, match=r"torch is 3\.1\.0"):
        replay(tmp_path)


def test_each_result_has_a_limit_of_its_own():
    eager = {"scores": 1e-3, "gradient of a": 2e-3, "gradient of b": 4e-3, "gradient of c": 0.4, "mean": 0.0}
    limits = _limits(eager, torch.float16, training=True)
    allowed = {name: (limit - torch.finfo(torch.float16).eps) / 2 for name, limit in limits.items()}
    assert allowed == pytest.approx({**eager, "gradient of a": 4e-3, "mean": 1e-3})
