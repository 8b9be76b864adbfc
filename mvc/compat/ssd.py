"""mamba-ssm's functions of Mamba-2 (arXiv 2405.21060), with its signatures, computed by `mvc::selective_scan`.

Mamba-2's scan is Mamba's with one decay for each head. mamba-ssm computes it by products of matrices, in chunks of
`chunk_size` steps; here one scan runs over the whole sequence, so that results do not depend on the chunks. On a GPU
with tensor cores, the products should be faster for many states; that was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mvc.arguments import is_whole, require
from mvc.compat.causal_conv1d import causal_conv1d_fn
from mvc.compat.layer_norm_gated import rmsnorm_fn
from mvc.compat.mamba_ssm import scan
from mvc.kernels.checks import check_flags, check_layouts, check_tensors
from mvc.kernels.scan import reset_from_cu_seqlens
from mvc.kernels.scan.checks import MAX_STATES

NO_LIMIT = (0.0, math.inf)


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = NO_LIMIT,
    return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """Mamba-2's scan: with Δ = clamp(softplus(dt + dt_bias)), h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_tᵀ of each head, and
    y_t = (h_t C_t + D x_t) SiLU(z_t).

    Args:
        x, z: (batch, length, heads, headdim), float32, float16 or bfloat16.
        dt: (batch, length, heads). A: (heads,), real and negative for a state that decays.
        B, C: (batch, length, groups, N) where each group serves heads / groups heads, N from 1 to 256.
        chunk_size: at least 1; the results do not depend on it.
        D: (heads,), or (heads, headdim). dt_bias: (heads,).
        initial_states: (batch, heads, headdim, N), the state before the first step; zero by default.
        seq_idx: (batch, length), integers: the state is set to zero before each step whose number is not that of the
            step before, so that packed sequences do not see each other.
        cu_seqlens: (sequences + 1,), int32 or int64, for a batch of one: where each packed sequence starts, and the end
            of the last. The state is set to zero there as well.
        dt_softplus: apply softplus to the (biased) time step. dt_limit: the least and the largest Δ.
        return_final_states: also return the state after the last step.
        return_varlen_states: also return the state after the last step of each sequence of `cu_seqlens`; its values
            are read, so that a GPU is waited for and code that is compiled is cut there.

    Returns:
        y of x's shape and dtype, or a tuple of y, the final states (batch, heads, headdim, N) and the states of the
        sequences (sequences, heads, headdim, N), as asked for, both in the dtype of the sums: float32, or float64 for a
        float64 x.

    Raises:
        TypeError: an argument that is no dense tensor, or of a dtype that cannot be used; a flag that is no bool.
        ValueError: a shape, device, chunk size or limit that does not fit.
    """
    required = {"x": x, "dt": dt, "A": A, "B": B, "C": C}
    optional = {"D": D, "z": z, "dt_bias": dt_bias, "initial_states": initial_states}
    sizes = check_layouts(_LAYOUTS, required, optional)
    heads, width, states, groups = (sizes[axis] for axis in ("heads", "headdim", "N", "groups"))
    require(groups > 0 and heads % groups == 0, "B's number of groups", groups, f"a divisor of {heads}, A's heads")
    require(1 <= states <= MAX_STATES, "B's last axis N", states, f"from 1 to {MAX_STATES}")
    require(is_whole(chunk_size, 1), "chunk_size", chunk_size, "a whole number of at least 1")
    check_flags(return_final_states=return_final_states, return_varlen_states=return_varlen_states)
    reset = starts_of_sequences(x, seq_idx, cu_seqlens)
    if return_varlen_states:
        require(cu_seqlens is not None, "cu_seqlens", None, "given where return_varlen_states is True")
        along = {"x": x, "dt": dt, "B": B, "C": C, "z": z, "seq_idx": seq_idx}
        options = {"A": A, "chunk_size": chunk_size, "D": D, "dt_bias": dt_bias, "initial_states": initial_states}
        options |= {"dt_softplus": dt_softplus, "dt_limit": dt_limit}
        y, states = _each_sequence(cu_seqlens.diff().tolist(), along, options)
        return (y, states[-1:], states) if return_final_states else (y, states)

    dtype = torch.promote_types(x.dtype, torch.float32)
    delta = time_step(dt, dt_bias, dt_softplus, dt_limit, dtype)
    D = D if D is None or D.dim() == 2 else D.unsqueeze(1).expand(-1, width)
    y, last_state = scan(
        x.flatten(2),
        delta.unsqueeze(-1).expand(-1, -1, -1, width).flatten(2),
        A.to(dtype).repeat_interleave(width).unsqueeze(1).expand(-1, states),
        B,
        C,
        D=None if D is None else D.flatten(),
        z=None if z is None else z.flatten(2),
        initial_state=None if initial_states is None else initial_states.to(dtype).flatten(1, 2),
        reset=reset,
    )
    y = y.unflatten(2, (heads, width))
    return (y, last_state.unflatten(1, (heads, width))) if return_final_states else y


def mamba_split_conv1d_scan_combined(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    dt_limit: tuple[float, float] = NO_LIMIT,
    return_final_states: bool = False,
    activation: str | None = "silu",
    rmsnorm_weight: Tensor | None = None,
    rmsnorm_eps: float = 1e-6,
    outproj_weight: Tensor | None = None,
    outproj_bias: Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba-2's block after its projection in: convolution, scan, gate, norm, and the projection out where given.

    Args:
        zxbcdt: (batch, length, 2 mlp + 2 dim + 2 groups N + heads): gate and input of a gated MLP beside the scan, the
            scan's gate z, its x, B and C, which are convolved, and its time step. dim is heads * headdim, mlp may be 0.
        conv1d_weight: (dim + 2 groups N, width), depthwise and causal. conv1d_bias: (dim + 2 groups N,).
        dt_bias, A, D, chunk_size, initial_states, dt_limit: as for `mamba_chunk_scan_combined`, with softplus.
        seq_idx: as there; the convolution does not see other sequences either.
        return_final_states: also return the state after the last step.
        activation: of the convolution, "silu", "swish" (the same) or None.
        rmsnorm_weight: (dim,), of a norm in `ngroups` groups. None leaves the norm out.
        outproj_weight: (features, mlp + dim). outproj_bias: (features,). None leaves the projection out.
        headdim: needed where D is (heads,).
        norm_before_gate: whether the norm's result is gated, or what it normalises.

    Returns:
        (batch, length, features), or mlp + dim features without a projection; or a tuple of that and the final states.

    Raises:
        TypeError, ValueError: as `mamba_chunk_scan_combined`.
    """
    check_flags(return_final_states=return_final_states, norm_before_gate=norm_before_gate)
    optional = {"rmsnorm_weight": rmsnorm_weight, "outproj_weight": outproj_weight, "outproj_bias": outproj_bias}
    check_layouts(_BLOCK_LAYOUTS, {"zxbcdt": zxbcdt}, optional)
    require(is_whole(ngroups, 1), "ngroups", ngroups, _NGROUPS)

    def norm(y: Tensor, z: Tensor) -> Tensor:
        size, dim = rmsnorm_weight.shape[0], y.shape[-1]
        require(size == dim, "rmsnorm_weight's size", size, f"dim, {dim}")
        return rmsnorm_fn(y, rmsnorm_weight, None, z, rmsnorm_eps, dim // ngroups, norm_before_gate)

    inputs = (zxbcdt, conv1d_weight, conv1d_bias, dt_bias, A, D, chunk_size, initial_states, seq_idx, dt_limit)
    norm_or_none = None if rmsnorm_weight is None else norm
    y, last_state = split_conv1d_scan(*inputs, activation, norm_or_none, headdim, ngroups)
    if outproj_weight is not None:
        seen = outproj_weight.shape[1]
        require(seen == y.shape[-1], "outproj_weight's number of columns", seen, f"mlp + dim, {y.shape[-1]}")
        y = F.linear(y, outproj_weight, outproj_bias)
    return (y, last_state) if return_final_states else y


def split_conv1d_scan(
    zxbcdt: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    chunk_size: int,
    initial_states: Tensor | None,
    seq_idx: Tensor | None,
    dt_limit: tuple[float, float],
    activation: str | None,
    norm: Callable[[Tensor, Tensor], Tensor] | None,
    headdim: int | None,
    ngroups: int,
) -> tuple[Tensor, Tensor]:
    """`mamba_split_conv1d_scan_combined` up to the projection out, with any function of y and z as its gated norm.

    Returns:
        (batch, length, mlp + dim), and the state after the last step.
    """
    required = {"zxbcdt": zxbcdt, "conv1d_weight": conv1d_weight, "dt_bias": dt_bias, "A": A, "D": D}
    sizes = check_layouts(_BLOCK_LAYOUTS, required, {"conv1d_bias": conv1d_bias})
    heads, channels = sizes["heads"], sizes["dim + 2 groups N"]
    width = sizes.get("headdim", headdim)
    require(is_whole(width, 1), "headdim", headdim, "a whole number of at least 1, since D is (heads,)")
    require(headdim in (None, width), "headdim", headdim, f"{width}, as in D, or None")
    require(is_whole(ngroups, 1) and heads % ngroups == 0, "ngroups", ngroups, f"{_NGROUPS}, {heads}")
    dim = heads * width
    weights, mlp = channels - dim, zxbcdt.shape[-1] - dim - channels - heads
    fits = weights > 0 and weights % (2 * ngroups) == 0
    require(fits, "conv1d_weight's number of rows", channels, f"dim + 2 groups N with dim {dim} and groups {ngroups}")
    wanted = f"2 mlp + 2 dim + 2 groups N + heads with {channels} dim + 2 groups N, dim {dim} and heads {heads}"
    require(mlp >= 0 and mlp % 2 == 0, "zxbcdt's number of features", zxbcdt.shape[-1], wanted)

    gate, value, z, xBC, dt = zxbcdt.split((mlp // 2, mlp // 2, dim, channels, heads), dim=-1)
    xBC = causal_conv1d_fn(xBC.transpose(1, 2), conv1d_weight, conv1d_bias, seq_idx, activation=activation)
    x, B, C = xBC.transpose(1, 2).split((dim, weights // 2, weights // 2), dim=-1)
    B, C = (t.unflatten(-1, (ngroups, -1)) for t in (B, C))
    y, last_state = mamba_chunk_scan_combined(
        x.unflatten(-1, (heads, width)),
        dt,
        A,
        B,
        C,
        chunk_size,
        D=D,
        z=z.unflatten(-1, (heads, width)) if norm is None else None,
        dt_bias=dt_bias,
        initial_states=initial_states,
        seq_idx=seq_idx,
        dt_softplus=True,
        dt_limit=dt_limit,
        return_final_states=True,
    )
    y = y.flatten(2) if norm is None else norm(y.flatten(2), z)
    return torch.cat((F.silu(gate) * value, y), dim=-1) if mlp else y, last_state


def time_step(
    dt: Tensor, dt_bias: Tensor | None, dt_softplus: bool, dt_limit: tuple[float, float], dtype: torch.dtype
) -> Tensor:
    """Δ in `dtype`, for each head: before it is repeated for the channels of its head."""
    check_flags(dt_softplus=dt_softplus)
    require(is_range(dt_limit), "dt_limit", dt_limit, "two numbers, the least and the largest time step")
    least, most = dt_limit
    delta = dt.to(dtype)
    if dt_bias is not None:
        delta = delta + dt_bias.to(dtype)
    if dt_softplus:
        delta = F.softplus(delta)
    unlimited = most == math.inf and (least == -math.inf or (dt_softplus and least <= 0))
    return delta if unlimited else delta.clamp(least, most)


def is_range(limit: object) -> bool:
    """Whether it is two numbers, the smaller one first."""
    numbers = isinstance(limit, (tuple, list)) and all(type(bound) in (int, float) for bound in limit)
    return numbers and len(limit) == 2 and limit[0] <= limit[1]


def starts_of_sequences(x: Tensor, seq_idx: Tensor | None, cu_seqlens: Tensor | None) -> Tensor | None:
    """(batch, length), true where a sequence other than the first starts in x (batch, length, ...); None for one."""
    batch, length = x.shape[:2]
    starts = []
    if seq_idx is not None:
        check_tensors({"seq_idx": seq_idx}, {})
        dtype, shape = seq_idx.dtype, tuple(seq_idx.shape)
        require(not (dtype.is_floating_point or dtype.is_complex), "seq_idx's dtype", dtype, "an integer one")
        require(shape == (batch, length), "seq_idx's shape", shape, f"(batch, length) {(batch, length)} as of x")
        starts.append(seq_idx[:, 1:] != seq_idx[:, :-1])
    if cu_seqlens is not None:
        require(batch == 1, "the batch beside cu_seqlens", batch, "1: packed sequences follow each other")
        starts.append(reset_from_cu_seqlens(cu_seqlens, length)[:, 1:])
    return F.pad(torch.stack(starts).any(0), (1, 0)) if starts else None


def _each_sequence(
    lengths: Sequence[int], along: dict[str, Tensor | None], options: dict[str, object]
) -> tuple[Tensor, Tensor]:
    """y of sequences of these lengths, packed in `along`, and the last state of each."""
    pieces = {name: tensor.split(lengths, dim=1) for name, tensor in along.items() if tensor is not None}
    outputs, states = [], []
    for each in zip(*pieces.values(), strict=True):
        inputs = dict(zip(pieces, each, strict=True))
        y, state = mamba_chunk_scan_combined(**inputs, **options, return_final_states=True)
        outputs.append(y)
        states.append(state)
        options = options | {"initial_states": None}  # what came before the first sequence
    return torch.cat(outputs, dim=1), torch.cat(states)


_SEQUENCE, _WEIGHTS = ("batch, length, heads, headdim",), ("batch, length, groups, N",)
_LAYOUTS = {
    **dict.fromkeys(("x", "z"), _SEQUENCE),
    **dict.fromkeys(("B", "C"), _WEIGHTS),
    **dict.fromkeys(("A", "dt_bias"), ("heads",)),
    "dt": ("batch, length, heads",),
    "D": ("heads", "heads, headdim"),
    "initial_states": ("batch, heads, headdim, N",),
}
_BLOCK_LAYOUTS = {
    **{name: _LAYOUTS[name] for name in ("A", "dt_bias", "D")},
    "zxbcdt": ("batch, length, features in",),
    "conv1d_weight": ("dim + 2 groups N, width",),
    "conv1d_bias": ("dim + 2 groups N",),
    "rmsnorm_weight": ("dim",),
    "outproj_weight": ("features, mlp + dim",),
    "outproj_bias": ("features",),
}
_NGROUPS = "a whole number of at least 1 that divides A's number of heads"
