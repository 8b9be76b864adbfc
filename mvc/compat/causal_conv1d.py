"""causal-conv1d's functions, with its signatures and (batch, dim, length) layout, in torch's own operations.

A channel's output at a step is a weighted sum of its inputs at that step and at the width - 1 before it. Sums are in
the wider of the dtypes of x and of the weight, also under autocast, and with seq_idx at least in float32; any width of
at least 1 is accepted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.arguments import require
from mvc.kernels.checks import check_flags, check_layouts, check_tensors
from mvc.kernels.scan.rules import autocast_is_on


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The causal depthwise convolution of a sequence.

    Args:
        x: (batch, dim, length), of any strides.
        weight: (dim, width), the oldest step first. bias: (dim,).
        seq_idx: (batch, length), int: steps see only those of the same number, so that packed sequences do not see each
            other, and y is zero where the number is negative. It excludes states.
        initial_states: (batch, dim, width - 1), the inputs before the first step; zero by default.
        return_final_states: also return the last width - 1 inputs.
        final_states_out: (batch, dim, width - 1), written to in place of a new tensor.
        activation: None, "silu" or "swish", which are the same.

    Returns:
        y, of x's shape and dtype, or (y, final states (batch, dim, width - 1)).

    Raises:
        TypeError: an argument that is no dense tensor of floating point, or a flag that is no bool.
        ValueError: a shape or device that does not fit, states beside seq_idx, `final_states_out` without
            `return_final_states`, or another activation.
    """
    optional = {"bias": bias, "initial_states": initial_states, "final_states_out": final_states_out}
    sizes = check_layouts(_LAYOUTS, {"x": x, "weight": weight}, optional)
    before = sizes["width"] - 1
    if sizes.get("states", before) != before:
        raise ValueError(
            f"initial_states and final_states_out must hold width - 1 = {before} steps, got {sizes['states']}"
        )
    check_flags(return_final_states=return_final_states)
    _check_activation(activation)
    if final_states_out is not None and not return_final_states:
        raise ValueError("final_states_out is written to with return_final_states=True only; pass both or neither")
    if seq_idx is not None:
        if initial_states is not None or return_final_states:
            raise ValueError("seq_idx cannot be combined with initial_states or return_final_states; pass one of them")
        _check_numbers("seq_idx", seq_idx, (x.shape[0], x.shape[2]), x.device)
    steps = F.pad(x, (before, 0)) if initial_states is None else torch.cat((initial_states.to(x.dtype), x), dim=2)
    y = _convolve(steps, weight, bias, activation, seq_idx).to(x.dtype)
    if not return_final_states:
        return y
    final = steps[..., steps.shape[2] - before :]
    return y, final.clone() if final_states_out is None else final_states_out.copy_(final)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """The convolution of the next steps of a sequence; advances `conv_state` in place. No gradient flows.

    Args:
        x: (batch, dim), one step, or (batch, dim, length).
        conv_state: (batch, dim, state length), the last inputs, of at least width - 1 steps.
        weight, bias, activation: as for `causal_conv1d_fn`.
        cache_seqlens: (batch,), int: how many steps each sequence has seen. The state is then a circular buffer, whose
            place for step t is t modulo the state length. Otherwise its last place is the newest step's.
        conv_state_indices: (batch,), int: the row of `conv_state` of each sequence, from 0 and all different; the state
            may then have more rows than x.

    Returns:
        y, of x's shape and dtype.

    Raises:
        TypeError, ValueError: as `causal_conv1d_fn`; a state that is shorter than width - 1, or than x where it is a
            circular buffer.
    """
    layouts = _LAYOUTS | {"x": ("batch, dim", "batch, dim, length")}
    rows = "rows" if conv_state_indices is not None else "batch"
    layouts["conv_state"] = (f"{rows}, dim, state length",)
    sizes = check_layouts(layouts, {"x": x, "weight": weight, "conv_state": conv_state}, {"bias": bias})
    _check_activation(activation)
    steps = x if x.dim() == 3 else x.unsqueeze(-1)
    least = sizes["width"] - 1 if cache_seqlens is None else max(sizes["width"] - 1, steps.shape[2])
    if sizes["state length"] < least:
        raise ValueError(f"conv_state must hold at least {least} steps, got shape {tuple(conv_state.shape)}")
    for name, numbers in {"cache_seqlens": cache_seqlens, "conv_state_indices": conv_state_indices}.items():
        if numbers is not None:
            _check_numbers(name, numbers, (x.shape[0],), x.device)
    with torch.no_grad():
        state = conv_state if conv_state_indices is None else conv_state[conv_state_indices]
        seen, state = _advance(state, steps.to(state.dtype), cache_seqlens, sizes["width"])
        y = _convolve(torch.cat((seen, steps), dim=2), weight, bias, activation).to(x.dtype)
        if conv_state_indices is None:
            conv_state.copy_(state)  # after the convolution: what was seen may be a view of it
        else:
            conv_state[conv_state_indices] = state
    return y if x.dim() == 3 else y.squeeze(-1)


def _advance(state: Tensor, steps: Tensor, seqlens: Tensor | None, width: int) -> tuple[Tensor, Tensor]:
    """The width - 1 inputs before `steps`, and the state after them."""
    length = state.shape[2]
    if seqlens is None:
        return state[..., length - (width - 1) :], torch.cat((state, steps), dim=2)[..., steps.shape[2] :]

    def places(first: int, last: int) -> Tensor:
        """Where the buffer has the steps from first to last, counted from the next one; (batch, dim, last - first)."""
        offsets = torch.arange(first, last, device=state.device)
        return ((seqlens[:, None] + offsets) % length)[:, None].expand(-1, state.shape[1], -1).long()

    return state.gather(2, places(1 - width, 0)), state.scatter(2, places(0, steps.shape[2]), steps)


def _convolve(
    steps: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, seq_idx: Tensor | None = None
) -> Tensor:
    """Of (batch, dim, width - 1 + length), in the dtype of the sums."""
    dtype = torch.promote_types(steps.dtype, weight.dtype)
    if seq_idx is not None:  # each tap is added by itself, and would be rounded to half precision
        dtype = torch.promote_types(dtype, torch.float32)
    steps, weight, bias = (None if t is None else t.to(dtype) for t in (steps, weight, bias))
    if seq_idx is not None:
        y = _packed(steps, weight, bias, seq_idx)
    elif autocast_is_on(steps.device.type):
        with torch.autocast(steps.device.type, enabled=False):
            y = F.conv1d(steps, weight.unsqueeze(1), bias, groups=weight.shape[0])
    else:
        y = F.conv1d(steps, weight.unsqueeze(1), bias, groups=weight.shape[0])
    return y if activation is None else F.silu(y)


def _packed(steps: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor) -> Tensor:
    """The convolution tap by tap, without the inputs of another sequence."""
    width = weight.shape[1]
    numbers = F.pad(seq_idx, (width - 1, 0), value=-1)
    y = 0 if bias is None else bias[:, None]
    for tap in range(width):
        window = slice(tap, tap + seq_idx.shape[1])
        same = (numbers[:, window] == seq_idx)[:, None]
        y = y + weight[:, tap, None] * steps[..., window].where(same, 0)
    return y.where(seq_idx[:, None] >= 0, 0)


def _check_activation(activation: str | None) -> None:
    require(activation in (None, "silu", "swish"), "activation", activation, 'None, "silu" or "swish"')


def _check_numbers(name: str, numbers: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    check_tensors({name: numbers}, {})
    if numbers.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} must be an int32 or int64 tensor, got {numbers.dtype}")
    if numbers.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(numbers.shape)}")
    if numbers.device != device:
        raise ValueError(f"{name} must be on x's device {device}, got {numbers.device}")


_LAYOUTS = {
    "x": ("batch, dim, length",),
    "weight": ("dim, width",),
    "bias": ("dim",),
    **dict.fromkeys(("initial_states", "final_states_out"), ("batch, dim, states",)),
}
