"""What decides a GPU's speed, from NVML's answers as recorded, and from the real one where there is a GPU."""

import pytest
import torch

from mvc.measure.gpu_identity import UNKNOWN, identify

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
from fake_nvml import FakeNvml, error

CUDA = torch.device("cuda")


def test_identity(monkeypatch):
    FakeNvml().install(monkeypatch)
    assert identify(CUDA) == ("580.65", 1985, 3202, 700, None, True, False)
    FakeNvml(nvmlInit=error("DRIVER_NOT_LOADED")).install(monkeypatch)
    assert identify(CUDA) == UNKNOWN


@pytest.mark.parametrize(
    ("answers", "field", "known"),
    [
        ({"nvmlDeviceGetApplicationsClock": 1410}, "clocks_locked", True),
        ({"nvmlDeviceGetApplicationsClock": error("DEPRECATED")}, "clocks_locked", None),
        ({"nvmlDeviceGetEnforcedPowerLimit": error("NO_PERMISSION")}, "power_limit", None),
        ({"nvmlDeviceGetEccMode": [0, 1]}, "ecc", False),
        ({"nvmlDeviceGetEccMode": error("NOT_SUPPORTED")}, "ecc", False),
        ({"nvmlDeviceGetEccMode": error("NO_PERMISSION")}, "ecc", None),
        ({"nvmlDeviceGetMigMode": [1, 1]}, "mig", True),
        ({"nvmlDeviceGetMigMode": AttributeError("no such function")}, "mig", None),
    ],
)
def test_what_nvml_does_not_tell_is_unknown(answers, field, known, monkeypatch):
    FakeNvml(**answers).install(monkeypatch)
    assert getattr(identify(CUDA), field) is known


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_real_one_answers():
    assert identify(CUDA).driver
    assert identify(CUDA).power_limit > 0
