"""Families of kernels: names that a GPU's profiles have shown, and sums of one profile."""

from collections import Counter

import pytest
from places import DATA, ROOT

from mvc.measure.families import FAMILIES, family

LINES = (DATA / "kernels-h200.tsv").read_text().splitlines()[1:]
SHOWN = [line.split("\t") for line in LINES]


def test_names_that_profiles_have_shown():
    wrong = {name: (family(name), expected) for expected, _, name in SHOWN if family(name) != expected}
    assert not wrong
    assert len(SHOWN) == 234


def test_the_sums_of_one_profile_are_those_published_with_it():
    microseconds = Counter()
    for _, spent, name in SHOWN:
        microseconds[family(name)] += float(spent or 0)
    assert {name: round(spent / 1e3, 2) for name, spent in microseconds.items() if spent} == {
        "convolution": 1.32,
        "matrix product": 1.31,
        "attention": 0.31,
        "scan": 0.41,
        "generated: GELU": 0.53,
        "generated: LayerNorm": 0.35,
        "generated: other": 0.40,
        "copies and memsets": 0.04,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("triton_tem_fused_addmm_gelu_3", "matrix product"),
        ("triton_tem_fused_convolution_0", "convolution"),
        ("triton_tem_fused_flex_attention_1", "attention"),
        ("cpp_fused_native_layer_norm_2", "generated: LayerNorm"),
        ("void pytorch_flash::flash_fwd_splitkv_kernel<pytorch_flash::Flash_fwd_kernel_traits<64>>", "attention"),
        ("fmha_cutlassF_f16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel<>)", "attention"),
        ("sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize128x128x32", "matrix product"),
        ("void gemv2T_kernel_val<int, float>", "matrix product"),
        ("void conv_depthwise2d_forward_kernel<3, float>", "convolution"),
        ("forward_kernel_2", "scan"),
        ("layer_norm_forward_kernel", "other"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<float>", "copies and memsets"),
        ("void (anonymous namespace)::softmax_warp_forward<float, float>", "other"),
    ],
)
def test_names_of_other_cards_and_modes(name, expected):
    assert family(name) == expected
    assert expected in FAMILIES


OWN = {"linear": "matrix product", "convolution": "convolution", "attention": "attention"}  # the others hold scans


def test_every_kernel_of_this_project_is_of_its_folders_family():
    """They are read from the sources, which need triton to be imported."""
    kernels = [
        (source.parent.name, line.split("(")[0].removeprefix("def "))
        for source in (ROOT / "kernels").rglob("triton_*.py")
        for line in source.read_text().splitlines()
        if line.startswith("def ") and "_kernel(" in line
    ]
    assert len(kernels) >= 5
    assert [(folder, name) for folder, name in kernels if family(name) != OWN.get(folder, "scan")] == []
