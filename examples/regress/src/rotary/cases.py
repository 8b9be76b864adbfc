"""What is measured. Each function returns a callable and its arguments, or yields them once."""

import torch

from rotary import Norm, angles, rotate


def queries(batch: int, length: int, device: str):
    x = torch.randn(batch, 4, length, 64, device=device)
    return rotate, (x, angles(length, 64, device=device))


def norm(device: str):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what is set up before the `yield` is undone behind it
    yield Norm(256, device=device), (torch.randn(64, 256, device=device),)
    torch.set_num_threads(threads)
