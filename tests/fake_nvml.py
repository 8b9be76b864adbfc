"""Stands for pynvml's functions and for torch's view of a GPU, answering as recorded from a driver."""

from types import SimpleNamespace

import pynvml

UUID = "6a1d3c2f-0000-1111-2222-333344445555"
PROPERTIES = SimpleNamespace(uuid=UUID, pci_domain_id=0, pci_bus_id=0x17, pci_device_id=0, total_memory=84_929_347_584)


class FakeNvml:
    """Installed with `install`. `answers` maps a function's name to a value, an error code, or a function of the call's
    arguments; `calls` holds the names in order."""

    def __init__(self, **answers):
        self.calls = []
        self.answers = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": "580.65",
            "nvmlDeviceGetHandleByUUID": lambda uuid: self._known(uuid, f"GPU-{UUID}"),
            "nvmlDeviceGetHandleByPciBusId": lambda bus: self._known(bus, "00000000:17:00.0"),
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda handle: f"parent of {handle}",
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1980, 2: 3201}[kind],
            "nvmlDeviceGetMaxClockInfo": lambda handle, kind: {1: 1985, 2: 3202}[kind],
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetApplicationsClock": 1980,
            "nvmlDeviceGetDefaultApplicationsClock": 1980,
            "nvmlDeviceGetEccMode": [1, 1],
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=0),
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetPowerUsage": 350_000,
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0,
            "nvmlDeviceGetTotalEnergyConsumption": iter(range(1_000_000, 2_000_000, 5_000)),
            "nvmlDeviceGetViolationStatus": lambda handle, policy: SimpleNamespace(violationTime=0),
        } | answers

    def _known(self, asked, name):
        if asked != name.encode():
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return name

    def install(self, monkeypatch):
        for name in self.answers:
            monkeypatch.setattr(pynvml, name, lambda *arguments, name=name: self._answer(name, arguments))
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: PROPERTIES)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
        return self

    def _answer(self, name, arguments):
        self.calls.append(name)
        answer = self.answers[name]
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            return answer(*arguments)
        return next(answer) if hasattr(answer, "__next__") else answer


def error(code):
    return pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{code}"))
