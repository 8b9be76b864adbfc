"""Several processes: what they compute together is what one computes of the joint batch."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing
from training_cases import ALONE, EAGER, draw, freeze_statistics, sources, step

from mvc.processes import Processes, joined
from mvc.train import checkpoint, sharding
from mvc.train.checkpoint import Position
from mvc.train.loop import training_batches, validate
from mvc.train.step import Execution, Step

pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("torchvision", reason="torchvision is not installed")

TOLERANCE = 1e-5
WAYS = {
    "ddp": EAGER,
    "parts": Execution("eager", torch.float32, parts=2),
    "fsdp": Execution("eager", torch.float32, fsdp=True),
    "fsdp parts": Execution("eager", torch.float32, parts=2, recompute=True, fsdp=True),
    "fsdp compiled": Execution("mvc", torch.float32, recompute=True, fsdp=True),
}


def trained(folder: Path, execution: Execution, processes: Processes) -> tuple[Step, list[float], list[float]]:
    """Three updates, which are an epoch whose last one has two images: the losses and the gradients' norms."""
    own = step(execution, processes, ema_decay=0.5, lr=1e-3)
    freeze_statistics(own.model)
    images = sources(folder)
    order = images.order(own.recipe)
    found = training_batches(own, images, start=0)
    done = [
        own.update(next(found), images=order.counted(number), epoch=0, number=number) for number in range(order.updates)
    ]
    return own, [each.loss for each in done], [each.gradient_norm for each in done]


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    folder = draw(tmp_path / "set", train=6, val=3)
    own, losses, norms = trained(folder, EAGER, ALONE)
    accuracy = validate(own, sources(folder), "average")
    given = checkpoint.setting(own, names=("a",), images="b")
    multiprocessing.spawn(_process, args=(_free_port(), folder, tmp_path), nprocs=2)
    expected = {"weights": own.model.state_dict(), "average": own.average.module.state_dict()}
    for way in WAYS:
        result = torch.load(tmp_path / f"{way}.pt", weights_only=True)
        assert result["losses"] == pytest.approx(losses, abs=TOLERANCE), way
        assert result["norms"] == pytest.approx(norms, abs=TOLERANCE), way
        assert result["loss"] == pytest.approx(accuracy.loss, abs=TOLERANCE), way
        assert result["top_1"] == accuracy.top_1, way
        for of, wanted in expected.items():
            assert _farthest(result[of], wanted) < TOLERANCE, f"{of} of {way}"
        # Whole on the disk, whoever wrote it: one process goes on from it.
        alone = step(ema_decay=0.5, lr=1e-3)
        position, notes = checkpoint.load(tmp_path / way, alone, given)
        assert position.updates == 3
        assert "the checkpoint is of 2 processes and these are 1" in notes[0]
        assert _farthest(alone.model.state_dict(), result["weights"]) == 0
        states = alone.optimizer.state_dict()["state"]
        assert len(states) == len(list(alone.model.parameters()))
        assert all(state["exp_avg"].abs().sum() > 0 for state in states.values())


def _farthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max((found[name].double() - expected[name].double()).abs().max().item() for name in expected)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _process(rank: int, port: int, folder: Path, output: Path) -> None:
    torch.set_num_threads(1)
    patched = pytest.MonkeyPatch()
    for name, value in {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        patched.setenv(name, str(value))
    # Captured blocks run as they are, after the passes.
    patched.setattr("mvc.compile.torch_private.inductor", lambda graph, inputs, options, **_: graph.forward)
    with joined(torch.device("cpu")) as processes:
        for way, execution in WAYS.items():
            _trained_together(folder, output, way, execution, processes)
        _statistics_are_of_all_images(processes)


def _trained_together(folder: Path, output: Path, way: str, execution: Execution, processes: Processes) -> None:
    own, losses, norms = trained(folder, execution, processes)
    if execution.fsdp:
        place = own.model.levels[2].blocks[0].mixer.in_proj.weight
        assert place.to_local().numel() * 2 == place.numel(), "each process has half"
    accuracy = validate(own, sources(folder), "average")
    found = {
        "weights": sharding.model_state(own.model),
        "average": sharding.model_state(own.average.module),
        "losses": losses,
        "norms": norms,
        "top_1": accuracy.top_1,
        "loss": accuracy.loss,
    }
    if processes.first:
        torch.save(found, output / f"{way}.pt")
        (output / way).mkdir()
    given = checkpoint.setting(own, names=("a",), images="b")
    checkpoint.save(output / way, own, Position(3, {}), given)
    again = step(execution, processes, ema_decay=0.5, lr=1e-3)
    assert checkpoint.load(output / way, again, given)[1] == [], "of as many processes"
    for name, tensor in sharding.model_state(again.model).items():
        assert torch.equal(tensor, found["weights"][name]), name


def _statistics_are_of_all_images(processes: Processes) -> None:
    own = step(EAGER, processes)
    for buffer in own.model.buffers():
        buffer.fill_(processes.rank)
    sharding.average_buffers(own.model, processes)
    values = {buffer.unique().item() for buffer in own.model.buffers() if buffer.is_floating_point()}
    assert values == {0.5}
