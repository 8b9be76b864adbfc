"""mamba-ssm's module of Mamba-2 (arXiv 2405.21060, section 7), with its constructor, parameters and initial values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvc.arguments import require, require_flag, require_whole
from mvc.compat.causal_conv1d import causal_conv1d_update
from mvc.compat.generation import states_of_layer
from mvc.compat.layer_norm_gated import RMSNorm
from mvc.compat.mamba_simple import check_sizes, decays, initial_dt_bias
from mvc.compat.mamba_ssm import selective_state_update
from mvc.compat.ssd import NO_LIMIT, is_range, split_conv1d_scan, starts_of_sequences, time_step
from mvc.errors import UserError


class Mamba2(nn.Module):
    """Mamba-2's block: projection in, convolution, scan with one decay for each head, gated norm, projection out.

    Args:
        d_model: features in and out. expand: the inner features are `expand` times as many.
        d_state: states N of each channel, from 1 to 256. d_conv: the width of the convolution.
        conv_init: the convolution's initial weights are uniform from -conv_init to conv_init; None leaves torch's.
        headdim: channels of a head. ngroups: groups of heads that share B and C.
        d_ssm: inner features that go through the scan, a multiple of headdim; the others are a gated MLP. None: all.
        A_init_range: A's initial values are -uniform in this range.
        D_has_hdim: whether D has a value for each channel, or for each head.
        rmsnorm: whether the scan's output is normalised. norm_before_gate: normalise, then gate, or the reverse.
        dt_min, dt_max, dt_init_floor: the time step's bias starts as a Δ that is log-uniform from dt_min to dt_max, and
            at least dt_init_floor.
        dt_limit: the least and the largest Δ.
        bias: of the two projections. conv_bias: of the convolution.
        chunk_size, use_mem_eff_path: accepted and checked, without an effect on the results: the scan runs over whole
            sequences, and autograd keeps what the backward needs.
        layer_idx: the module's key in the cache of `inference_params`.
        process_group: None; tensor parallelism is not here. sequence_parallel: has no meaning without a process group.

    Raises:
        UserError: an argument that does not fit.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: int = 2,
        headdim: int = 64,
        d_ssm: int | None = None,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = NO_LIMIT,
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        process_group: None = None,
        sequence_parallel: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require(process_group is None, "process_group", process_group, "None: mvc has no tensor-parallel Mamba2")
        require_flag("use_mem_eff_path", use_mem_eff_path)
        sizes = {"d_model": d_model, "d_conv": d_conv, "expand": expand, "headdim": headdim, "ngroups": ngroups}
        check_sizes(sizes | {"chunk_size": chunk_size}, d_state)
        factory = {"device": device, "dtype": dtype}
        d_inner = expand * d_model
        self.d_model, self.d_state, self.d_conv, self.conv_init = d_model, d_state, d_conv, conv_init
        self.expand, self.headdim, self.ngroups = expand, headdim, ngroups
        self.d_inner, self.d_ssm = d_inner, d_inner if d_ssm is None else d_ssm
        require_whole("d_ssm", self.d_ssm, 1)
        require(self.d_ssm <= d_inner, "d_ssm", d_ssm, f"at most expand * d_model, {d_inner}")
        require(self.d_ssm % headdim == 0, "headdim", headdim, f"a divisor of the scan's {self.d_ssm} features")
        self.nheads = self.d_ssm // headdim
        require(self.nheads % ngroups == 0, "ngroups", ngroups, f"a divisor of the number of heads, {self.nheads}")
        holds = is_range(A_init_range) and A_init_range[0] > 0
        require(holds, "A_init_range", A_init_range, "two positive numbers, the smaller one first")
        self.D_has_hdim, self.rmsnorm, self.norm_before_gate = D_has_hdim, rmsnorm, norm_before_gate
        self.dt_limit, self.chunk_size, self.layer_idx = tuple(dt_limit), chunk_size, layer_idx
        self.activation = "silu"

        weights = 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, 2 * d_inner + weights + self.nheads, bias=bias, **factory)
        channels = self.d_ssm + weights
        convolution = {"kernel_size": d_conv, "groups": channels, "padding": d_conv - 1, "bias": conv_bias}
        self.conv1d = nn.Conv1d(channels, channels, **convolution, **factory)
        if conv_init is not None:
            nn.init.uniform_(self.conv1d.weight, -conv_init, conv_init)
        self.dt_bias = _without_decay(initial_dt_bias(self.nheads, dt_min, dt_max, dt_init_floor, **factory))
        rates = torch.empty(self.nheads, device=device, dtype=torch.float32).uniform_(*A_init_range)
        self.A_log = _without_decay(torch.log(rates).to(dtype))
        self.D = _without_decay(torch.ones(self.d_ssm if D_has_hdim else self.nheads, device=device))
        if rmsnorm:
            size = self.d_ssm // ngroups
            self.norm = RMSNorm(self.d_ssm, eps=1e-5, group_size=size, norm_before_gate=norm_before_gate, **factory)
        self.out_proj = nn.Linear(d_inner, d_model, bias=bias, **factory)

    def forward(
        self,
        u: Tensor,
        seqlen: int | None = None,
        seq_idx: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        inference_params: Any | None = None,
    ) -> Tensor:
        """
        Args:
            u: (batch, length, d_model); with `seqlen`, the length, (batch * length, d_model).
            seq_idx, cu_seqlens: which packed sequence each step belongs to, as for `mamba_chunk_scan_combined`; neither
                the convolution nor the scan sees another sequence.
            inference_params: mamba-ssm's `InferenceParams`: its `key_value_memory_dict` holds the states by layer,
                written after the prompt, where `seqlen_offset` is 0, and advanced by a step each afterwards. With
                `cu_seqlens` there is a state for each sequence.

        Returns:
            The shape and dtype of u.

        Raises:
            TypeError, ValueError: an argument that does not fit.
        """
        flat = seqlen is not None
        u = u.unflatten(0, (-1, seqlen)) if flat else u
        if u.dim() != 3 or u.shape[2] != self.d_model:
            raise UserError(f"u must be (batch, length, {self.d_model}), got shape {tuple(u.shape)}")
        cache = None
        if inference_params is not None:
            sequences = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
            cache = states_of_layer(self, inference_params, sequences)
            if inference_params.seqlen_offset > 0:
                y, *_ = self.step(u, *cache)
                return y.flatten(0, 1) if flat else y
        zxbcdt = self.in_proj(u)
        if cu_seqlens is not None:
            seq_idx = starts_of_sequences(u, seq_idx, cu_seqlens).cumsum(1, dtype=torch.int32)
        if cache is None:
            y, _ = self._mix(zxbcdt, seq_idx)
        elif cu_seqlens is None:
            y = self._prefill(zxbcdt, seq_idx, *cache)
        else:
            lengths = cu_seqlens.diff().tolist()
            pieces = (zxbcdt.split(lengths, dim=1), seq_idx.split(lengths, dim=1), *(t.split(1) for t in cache))
            y = torch.cat([self._prefill(*piece) for piece in zip(*pieces, strict=True)], dim=1)
        y = self.out_proj(y)
        return y.flatten(0, 1) if flat else y

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of decoding, (batch, 1, d_model) in and out; advances both states in place and returns them too.

        The states are those of `allocate_inference_cache`. No gradient passes the convolution or the scan: train on
        sequences.
        """
        steps = hidden_states.shape[1]
        require(steps == 1, "the length of hidden_states", steps, "1: a step of decoding takes one step")
        zxbcdt = self.in_proj(hidden_states.squeeze(1))
        gate, value, z, xBC, dt = zxbcdt.split(self._sizes(), dim=-1)
        weight = self.conv1d.weight.squeeze(1)
        xBC = causal_conv1d_update(xBC, conv_state, weight, self.conv1d.bias, self.activation)
        x, B, C = xBC.split((self.d_ssm, *[self.ngroups * self.d_state] * 2), dim=-1)
        x, gate_of_scan = (t.unflatten(-1, (self.nheads, self.headdim)) for t in (x, z))
        B, C = (t.unflatten(-1, (self.ngroups, self.d_state)) for t in (B, C))
        A = decays(self.A_log)
        delta = time_step(dt, self.dt_bias, True, self.dt_limit, A.dtype)
        y = selective_state_update(
            ssm_state,
            x,
            delta.unsqueeze(-1).expand(-1, -1, self.headdim),
            A[:, None, None].expand(-1, self.headdim, self.d_state),
            B,
            C,
            D=self.D.view(self.nheads, -1).expand(-1, self.headdim),
            z=None if self.rmsnorm else gate_of_scan,
        ).flatten(1)
        if self.rmsnorm:
            y = self.norm(y, z)
        if gate.shape[-1]:
            y = torch.cat((F.silu(gate) * value, y), dim=-1)
        return self.out_proj(y).unsqueeze(1), conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The states before the first step, zero: the convolution's last inputs, (batch, channels, d_conv), and the
        scan's (batch, heads, headdim, d_state); `max_seqlen` and `kwargs` have no effect on them."""
        channels = self.conv1d.weight.shape[0]
        shapes = {self.conv1d: (batch_size, channels, self.d_conv)}
        shapes[self.in_proj] = (batch_size, self.nheads, self.headdim, self.d_state)
        return tuple(
            layer.weight.new_zeros(shape, dtype=dtype or layer.weight.dtype, requires_grad=False)
            for layer, shape in shapes.items()
        )

    def _prefill(self, zxbcdt: Tensor, seq_idx: Tensor | None, conv_state: Tensor, ssm_state: Tensor) -> Tensor:
        """`_mix`'s output; writes the states after the last step."""
        y, last_state = self._mix(zxbcdt, seq_idx)
        xBC = zxbcdt.split(self._sizes(), dim=-1)[3].transpose(1, 2)
        conv_state.copy_(F.pad(xBC.detach(), (self.d_conv - xBC.shape[-1], 0)))
        ssm_state.copy_(last_state.detach())
        return y

    def _mix(self, zxbcdt: Tensor, seq_idx: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is between the two projections, and the scan's last state."""
        return split_conv1d_scan(
            zxbcdt,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            self.dt_bias,
            decays(self.A_log),
            self.D.view(self.nheads, self.headdim) if self.D_has_hdim else self.D,
            self.chunk_size,
            initial_states=None,
            seq_idx=seq_idx,
            dt_limit=self.dt_limit,
            activation=self.activation,
            norm=self.norm if self.rmsnorm else None,
            headdim=self.headdim,
            ngroups=self.ngroups,
        )

    def _sizes(self) -> tuple[int, ...]:
        """Of `in_proj`'s features: gate and input of the gated MLP, the scan's gate, x with B and C, the time step."""
        mlp = self.d_inner - self.d_ssm
        return mlp, mlp, self.d_ssm, self.conv1d.weight.shape[0], self.nheads


def _without_decay(initial: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(initial)
    parameter._no_weight_decay = True  # by this mark, training code written for mamba-ssm knows it
    return parameter
