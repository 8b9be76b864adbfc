"""One model in several ways: names, results, figures."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mvc import create_model
from mvc.compile.compiler import training_step
from mvc.errors import UserError
from mvc.measure import flops, ladder
from mvc.measure.device_profile import DeviceProfile, Kernel
from mvc.measure.ladder import Rung
from mvc.measure.profiler import Measurement, Timing

X = [torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_the_reference_runs_no_scan_op_and_gives_the_same():
    model = create_model("tiny").eval()
    rung = ladder.build("reference", model, X[0])
    with Calls() as calls:
        y = rung.run(X[0])
    assert not [name for name in calls.names if "selective_scan" in name]
    with Calls() as calls:
        expected = ladder.build("eager", model, X[0]).run(X[0])
    assert [name for name in calls.names if "selective_scan" in name]
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inductor", {"backend": "inductor"}),
        ("mvc", {"backend": "mvc"}),
        ("frozen", {"backend": "mvc", "options": {"frozen": True}}),
        ("mvc:lower_scan,fuse_movement", {"backend": "mvc", "options": {"passes": ["lower_scan", "fuse_movement"]}}),
    ],
)
def test_names_stand_for_options(name, expected, monkeypatch):
    asked = {}

    def compile_model(model, x, **options):
        asked.update(options)
        return model, type("Report", (), {"seconds": 3.0})

    monkeypatch.setattr(ladder, "compile_model", compile_model)
    model = create_model("tiny").eval()
    assert ladder.build(name, model, X[0]) == Rung(name, model, 3.0)
    assert asked == {"mode": "default", **expected}


@pytest.mark.parametrize("name", ["stock", "inductor:lower_scan", "frozen:lower_scan", "", "mvc:no_such_pass"])
def test_unknown_rungs_are_named(name):
    with pytest.raises(UserError, match="is no rung of the ladder; there are reference, eager"):
        ladder.build(name, create_model("tiny").eval(), X[0])


def test_frozen_is_not_for_training():
    with pytest.raises(UserError, match="'frozen' is for inference"):
        ladder.build("frozen", create_model("tiny").train(), X[0])


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_every_rung_has_its_figures(training):
    model = create_model("tiny", drop_path_rate=0.0).train(training)
    rungs = [Rung("eager", model), ladder.build("reference", model, X[0])]
    with torch.set_grad_enabled(training):
        measured = ladder.measure(model, rungs, X, rounds=2)
    assert list(measured.rows) == ["eager", "reference"]
    eager, reference = measured.rows.values()
    assert eager.over_eager == eager.over_eager_low == eager.over_eager_high == 1
    weights = sum(parameter.nbytes for parameter in model.parameters())
    work = flops.count(lambda: training_step(model, X[0]) if training else model(X[0]))
    for row in (eager, reference):
        assert row.p10_seconds <= row.median_seconds <= row.p90_seconds
        assert row.over_eager_low <= row.over_eager <= row.over_eager_high
        assert row.images_per_second == pytest.approx(2 / row.median_seconds)
        assert row.peak_memory_bytes > 2 * weights, "the process holds more than the model"
        assert row.share_of_ceiling * measured.ceiling * row.median_seconds == pytest.approx(work)
        assert row.share_apart_from_scan > row.share_of_ceiling
        assert row.peak_reserved_bytes is row.energy_joules_per_image is None, "a CPU does not tell"
        assert row.call_median_seconds is None, "wall time is a call's"
    assert set(measured.alone) == {"scan", "matrix_product", "convolution_stage_1", "convolution_stage_2"}
    assert 0 < measured.product_rate <= measured.ceiling


def of_measurement(**more):
    """Of a GPU that is not there: eager takes 4 s, compiled 2 s and the scans 0.5 s."""
    seconds = {"eager": 4.0, "compiled": 2.0, "scan": 0.5}
    timings = {name: Timing((value,) * 3) for name, value in seconds.items()}
    facts = dict.fromkeys(Measurement._fields) | {"timings": timings, "discarded": {}, "not_warm": ()} | more
    return Measurement(**facts)


def of_a_gpu(profile=None, **more):
    return ladder.Ladder(of_measurement(**more), {}, 1.0, 1.0, {}, profile, len(X), sum(x.nbytes for x in X))


def test_the_scans_share_is_that_of_the_kernels_where_they_were_profiled():
    apart = of_a_gpu()
    assert (apart.scan_share, apart.scan_share_source) == (0.25, "scans timed apart")
    assert (apart.speedup.median, apart.rounds) == (2.0, 3)
    kernels = (Kernel("nvjet", 5, 1.7), Kernel("forward_kernel", 6, 0.3))
    profiled = of_a_gpu(DeviceProfile(kernels, 9.0))
    assert (profiled.scan_share, profiled.scan_share_source) == (pytest.approx(0.15), "device profile")
    assert DeviceProfile(kernels, 9.0).as_dict() == {
        "seconds": 2.0,
        "gaps": 9.0,
        "rows": [
            {"family": "matrix product", "kernels": 5, "seconds": 1.7},
            {"family": "scan", "kernels": 6, "seconds": 0.3},
        ],
    }


def test_what_the_host_limits_is_among_the_facts():
    calls = {name: Timing((3.0,) * 3) for name in ("eager", "compiled", "scan")}
    measurement = of_measurement(calls=calls)
    assert measurement.limited_by_host == ("compiled", "scan")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_a_gpu_tells_what_its_kernels_are_for():
    model, inputs = create_model("tiny").eval().cuda(), [x.cuda() for x in X]
    measured = ladder.measure(model, [Rung("eager", model), Rung("compiled", model)], inputs, rounds=2)
    assert measured.measurement.clock == "graph"
    assert {"convolution", "matrix product", "scan", "gaps"} <= measured.profile.by_family().keys()
    assert 0 < measured.scan_share < 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_a_gpu_tells_its_memory_and_energy():
    model, inputs = create_model("tiny").eval().cuda(), [x.cuda() for x in X]
    row = ladder.measure(model, [Rung("eager", model)], inputs, rounds=2).rows["eager"]
    assert sum(parameter.nbytes for parameter in model.parameters()) < row.peak_memory_bytes
    assert row.peak_memory_bytes <= row.peak_reserved_bytes
    assert 0 < row.energy_joules_per_image < 1000 * row.median_seconds, "below 1 kW"
