"""The generated GPU code on CPU tensors: it computes what eager does, and a changed number in it is found out."""

import re
import shutil
from pathlib import Path

import pytest

from mvc.errors import UserError
from mvc.offline import device
from mvc.offline.codegen import Request
from mvc.offline.generate import generate
from mvc.offline.replay import Replay, replay
from mvc.offline.targets import find

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(device.why_not() is not None, reason=str(device.why_not())),
]

# What is changed, where it stands in the wrapper, and what takes its place, once.
MUTATIONS = {
    "epsilon of a LayerNorm": (r"1e-05, tl\.float32", "1e-02, tl.float32"),
    "base of the decay": (r"1\.4426950408889634", "1.4326950408889634"),
    "constant of GELU": (r"0\.7071067811865476, tl\.float32", "0.7171067811865476, tl.float32"),
    "tap of a convolution": (r"tl\.load\(in_ptr1 \+ \(1 \+ 3\*x0\)", "tl.load(in_ptr1 + (3*x0)"),
    "width of a LayerNorm": (r"64\.0, tl\.float32", "63.0, tl.float32"),
    "sign of the skip connection": (r"b_y \+= b_D \* b_u", "b_y -= b_D * b_u"),
}

# Passes that change GPU code, without the others, on the model where they find something.
OURS, PUBLISHED = "mvc:create_model", "bench.published:create_model"
ALONE = (
    (OURS, ("lower_scan",)),
    (OURS, ("lower_scan", "fuse_batch_norm")),
    (OURS, ("lower_scan", "fuse_cat")),
    (PUBLISHED, ("lower_scan", "fuse_depthwise")),
    (PUBLISHED, ("lower_scan", "fuse_movement")),
)


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    generate(Request("tiny", 2, 64, 64, "float32", frozen=True), find("sm_90"), folder, kernels=False)
    return folder


def test_generated_code_computes_what_eager_does_and_changes_are_caught(code, tmp_path):
    changed = []
    for index, (pattern, replacement) in enumerate(MUTATIONS.values()):
        folder = shutil.copytree(code, tmp_path / str(index))
        wrapper, count = re.subn(pattern, replacement, (folder / "forward.py").read_text(), count=1)
        assert count == 1, f"{pattern} is not in the wrapper"
        (folder / "forward.py").write_text(wrapper)
        changed.append(folder)
    right, *wrong = replay(code, *changed)
    assert right.passed, right
    assert right.error < 1e-6
    assert right.limit == 1e-5
    missed = [name for name, each in zip(MUTATIONS, wrong, strict=True) if each.passed]
    assert missed == []


def test_the_code_is_right_after_each_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])  # where the processes find bench.published
    folders, launches = [], []
    for builder, passes in ALONE:
        asked = Request("tiny", 2, 64, 64, "float32", frozen=True, passes=passes, builder=builder)
        folders.append(tmp_path / str(len(folders)))
        manifest = generate(asked, find("sm_90"), folders[-1], kernels=False)
        launches.append(tuple(launch.name for launch in manifest.launches))
    assert len(set(launches)) == len(ALONE), "each leaves its mark"
    assert [each for each in replay(*folders) if not each.passed] == []


@pytest.mark.parametrize(
    "request_",
    [
        Request("tiny", 2, 64, 64, "float16", frozen=True),
        Request("tiny", 2, 64, 64, "bfloat16"),
        Request("tiny", 2, 64, 64, "float32", training=True),
        Request("tiny", 2, 64, 64, "bfloat16", training=True),
    ],
    ids=["float16-frozen", "bfloat16", "training", "training-bfloat16"],
)
def test_other_dtypes_and_gradients_are_within_budget(request_, tmp_path):
    generate(request_, find("sm_80"), tmp_path, kernels=False)
    (seen,) = replay(tmp_path)
    assert seen.passed, seen
    assert seen.eager > 0


def test_t_at_batch_1(tmp_path):
    generate(Request("T", 1, 224, 224, "float32", frozen=True), find("sm_90"), tmp_path, kernels=False)
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


def test_a_result_that_is_no_number_fails():
    assert not Replay(float("nan"), "scores", 1e-7, 1e-5).passed
