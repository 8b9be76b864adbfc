"""Files of `make bench` tell of the machine what the gate's recordings tell, so that both can be compared."""

from typing import Any

import torch

from mvc.measure.environment import environment


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    told = vars(environment(torch.device("cpu")))
    machine_info.update({name: fact for name, fact in told.items() if name != "cpu"})  # pytest-benchmark has its own
