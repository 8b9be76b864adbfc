"""Triton's interpreter as mvc mends it, in a process of its own."""

import torch
from scan_cases import interpreted, needs_triton, print_failures


@needs_triton
def test_bfloat16_is_what_torch_rounds_to():
    assert interpreted(__file__) == {"rounded": None, "widened": None}


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    import tiny_kernel

    y = torch.empty(x.shape, dtype=dtype)
    tiny_kernel.cast[(1,)](x, y, BLOCK=x.numel())
    return y


def values() -> torch.Tensor:
    """Halves of the last place, both ways to even, what rounds up to the next power and to infinity, and no numbers."""
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 2 - 2**-9, 3.4e38, 1e-40, -0.0, 0.0])
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, torch.finfo(torch.float32).tiny])
    return torch.cat((ties, special, torch.randn(1012, generator=torch.Generator().manual_seed(0))))


def rounded() -> None:
    x = values()
    torch.testing.assert_close(cast(x, torch.bfloat16), x.bfloat16(), rtol=0, atol=0, equal_nan=True)


def widened() -> None:
    x = values().bfloat16()
    torch.testing.assert_close(cast(x, torch.float32), x.float(), rtol=0, atol=0, equal_nan=True)


if __name__ == "__main__":
    print_failures({"rounded": rounded, "widened": widened})
