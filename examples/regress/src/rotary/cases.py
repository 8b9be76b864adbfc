"""What is measured. Each function returns a callable and its arguments, or yields them once."""

import torch

import rotary


def queries(batch: int, length: int, device: str):
    x = torch.randn(batch, 4, length, 64, device=device)
    return rotary.rotate, (x, rotary.angles(length, 64, device=device))


def norm(device: str):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what is set up before the `yield` is undone behind it
    weight = torch.ones(256, device=device, requires_grad=True)
    yield rotary.norm, (torch.randn(64, 256, device=device), weight)
    torch.set_num_threads(threads)
