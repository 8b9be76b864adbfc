"""The estimate: what a launch takes, and how far off it is for the models that it was not fitted to."""

import dataclasses
import json

import pytest
from offline_sample import LAUNCHES, MB, launch, sample

from bench import calibrate
from mvc.offline import estimate
from mvc.offline.estimate import Efficiency
from mvc.offline.targets import TARGETS, find

COMMITTED = json.loads(estimate.CALIBRATION.read_text())
EFFICIENCIES = estimate.calibration().efficiencies


@pytest.mark.parametrize("model", calibrate.HELD_OUT)
def test_a_model_that_was_held_out_takes_what_is_estimated(model):
    error = calibrate.error(model, EFFICIENCIES)
    assert abs(error) <= 0.15
    assert error == pytest.approx(COMMITTED["errors"][model], abs=1e-4)
    assert estimate.calibration().errors[model] == COMMITTED["errors"][model]


@pytest.mark.parametrize("model", calibrate.HELD_OUT)
def test_its_kernels_are_estimated_in_the_order_of_their_times(model):
    rows = calibrate.by_name(model)
    assert len({row.name for row in rows if row.launches and row.seconds}) >= 12
    correlation = calibrate.rank_correlation(rows, EFFICIENCIES)
    assert correlation >= 0.9
    assert correlation == pytest.approx(COMMITTED["rank correlations"][model], abs=1e-4)


@pytest.mark.parametrize("model", [*calibrate.FITTED_TO, *calibrate.HELD_OUT])
def test_every_launch_and_every_kernel_is_in_one_row(model):
    some, given = calibrate.launches(model), calibrate.kernels(model)
    for rows in (calibrate.by_name(model), calibrate.by_family(model)):
        assert sum(len(row.launches) for row in rows) == len(some)
        assert sum(row.seconds for row in rows) == pytest.approx(sum(kernel.seconds for kernel in given))


def test_the_constants_are_what_the_fit_gives(monkeypatch):
    """Without the models that are held out, whose kernels it must not ask for."""
    kernels = calibrate.kernels

    def seen(model):
        assert model not in calibrate.HELD_OUT
        return kernels(model)

    monkeypatch.setattr(calibrate, "kernels", seen)
    fitted = calibrate.fitted(calibrate.fitting())
    for family, constants in fitted.items():
        assert constants == pytest.approx(EFFICIENCIES[family], rel=0.02), family
    assert fitted.keys() == EFFICIENCIES.keys()


def test_launches_and_kernels_are_cut_where_as_many_have_passed():
    large, small = launch("extern", "a", {}, {}, 8 * 10**9), launch("extern", "a", {}, {}, 10**9)
    measured = [calibrate.Kernel("x", 2, 2e-6), calibrate.Kernel("y", 1, 4e-6), calibrate.Kernel("z", 3, 1e-6)]
    rows = calibrate.cut("", [small, large, small, small, large, large], measured)
    assert [(row.launches, row.seconds) for row in rows] == [([large] * 3, pytest.approx(6e-6)), ([small] * 3, 1e-6)]
    rows = calibrate.cut("", [large] * 3 + [small] * 4, measured)
    assert [(len(row.launches), row.seconds) for row in rows] == [(3, pytest.approx(6e-6)), (4, 1e-6)]


def test_a_launch_takes_its_fixed_time_its_steps_and_what_bounds_it():
    target = find("h200")
    efficiencies = dict.fromkeys(EFFICIENCIES, Efficiency(2e-6, 0.5, 0.25, 3e-7))

    def seconds(each):
        return estimate.seconds(each, target, "float16", efficiencies)

    norm, product, _, scan = LAUNCHES
    assert seconds(norm) == pytest.approx(2e-6 + (4 * MB + 1000) / (0.5 * 4.8e12))
    assert seconds(product) == pytest.approx(2e-6 + 4e9 / (0.25 * target.matrix_flops["float16"]))
    assert seconds(dataclasses.replace(scan, reads={}, writes={}, steps=196)) == pytest.approx(
        2e-6 + 196 * 3e-7 + 1e6 / (0.25 * target.matrix_flops["float32"])
    )


def test_floors_are_at_the_full_specification():
    target = find("sm_90")
    norm, product, *_ = costs = estimate.costs(sample())
    assert norm.floor == pytest.approx(2 * MB / target.bandwidth)
    assert product.floor == pytest.approx(4e9 / target.matrix_flops["float16"])
    assert all(cost.seconds > cost.floor for cost in costs)


@pytest.mark.parametrize(
    ("kind", "name", "flops", "groups", "family"),
    [
        ("extern", "extern_kernels.convolution", 9, 1, "convolution"),
        ("extern", "extern_kernels.convolution", 9, 64, "depthwise convolution"),
        ("extern", "torch.ops.aten._scaled_dot_product_cudnn_attention.default", 9, 1, "attention"),
        ("extern", "extern_kernels.addmm", 9, 1, "matrix product"),
        ("extern", "Tensor.sum", 0, 1, "generated: other"),
        ("triton", "triton_poi_fused_add_gelu_9", 0, 1, "generated: GELU"),
        ("triton", "triton_per_fused_native_layer_norm_6", 0, 1, "generated: LayerNorm"),
        ("triton", "triton_poi_fused_convolution_relu_0", 0, 1, "generated: other"),
        ("own", "naive_scan_kernel_0", 9, 1, "scan"),
        ("own", "linear_kernel_0", 9, 1, "matrix product"),
        ("own", "convolution_kernel_0", 9, 1, "convolution"),
        ("own", "attention_forward_kernel_0", 9, 1, "attention"),
        ("own", "anyones_kernel_0", 0, 1, "generated: other"),
    ],
)
def test_families_of_launches(kind, name, flops, groups, family):
    assert estimate.family(dataclasses.replace(launch(kind, name, {}, {}, flops), groups=groups)) == family
    assert family in EFFICIENCIES


def test_only_what_was_fitted_is_called_fitted():
    model = sample().model
    made = sample(target="h200")
    assert "fitted to float16 inference on an NVIDIA H200" in estimate.basis(made)
    for target in TARGETS.keys() - {"h200"}:
        assert "extrapolated from float16 inference on an NVIDIA H200" in estimate.basis(sample(target=target))
    for changes in ({"dtype": "bfloat16"}, {"training": True}):
        assert "extrapolated from" in estimate.basis(
            dataclasses.replace(made, model=dataclasses.replace(model, **changes))
        )


def test_what_is_assumed_of_own_kernels_is_said_where_there_are_some():
    assert estimate.OWN_ASSUMED not in estimate.basis(sample())  # its scan is fitted
    product = launch("own", "linear_kernel_0", {"a": MB}, {"b": MB}, 9)
    assert estimate.OWN_ASSUMED in estimate.basis(sample(launches=(*LAUNCHES, product)))


def test_the_error_stands_beside_the_estimate():
    for model, error in COMMITTED["errors"].items():
        assert f"{abs(error):.0%} too {'long' if error > 0 else 'short'} for {model}" in estimate.basis(sample())
