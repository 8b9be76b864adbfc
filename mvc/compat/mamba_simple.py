"""mamba-ssm's module `Mamba` with its constructor, parameters and decoding, and Vision Mamba's two directions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvc.arguments import is_number, is_whole, require, require_choice, require_flag, require_whole
from mvc.compat import block
from mvc.compat.causal_conv1d import causal_conv1d_update
from mvc.compat.generation import states_of_layer
from mvc.compat.mamba_ssm import scan, selective_state_update
from mvc.errors import UserError
from mvc.kernels.scan.checks import MAX_STATES


class Mamba(nn.Module):
    """Mamba's mixer (arXiv 2312.00752, section 3.4): projection in, causal convolution, selective scan, gate, out.

    Parameters have the names, shapes, initial distributions and marks of mamba-ssm, or of Vision Mamba's fork
    (arXiv 2401.09417) where `bimamba_type` asks for them, so that checkpoints of either load. The weight and the bias
    of `dt_proj` are read and its forward is not called, as in mamba-ssm: the bias is added in float32, in the scan.

    Args:
        d_model: channels in and out. d_state: N, the states of a channel, from 1 to 256.
        d_conv: the width of the convolution.
        expand: channels of the scan, d_inner, for each of d_model.
        dt_rank: R, the rank of the time step; "auto" is d_model / 16, rounded up.
        dt_min, dt_max, dt_init_floor: softplus(dt_proj.bias) starts log-uniform from dt_min to dt_max, at least
            dt_init_floor.
        dt_init, dt_scale: dt_proj.weight starts "random" within, or "constant" at, dt_scale / sqrt(R).
        conv_bias, bias: whether the convolution, and the projections in and out, have biases.
        use_fast_path: both values compute the same here, on the same scan.
        layer_idx: where `inference_params.key_value_memory_dict` keeps this layer's states.
        device, dtype: of the parameters; A_log and D stay float32.
        bimamba_type: "none"; "v1", a second scan from the last step to the first with its own A; or "v2", a second
            convolution, projection and scan of the flipped sequence, with parameters of their own.
        if_divide_out, if_devide_out: halve the sum of both directions of "v2"; Vim's code has both spellings.
        init_layer_scale: multiply the output by `gamma` (d_model,), which starts at this value.

    Raises:
        UserError: an argument that does not fit, such as halving where there is no "v2".
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        bimamba_type: str = "none",
        if_divide_out: bool = False,
        init_layer_scale: float | None = None,
        if_devide_out: bool = False,
    ) -> None:
        super().__init__()
        require_choice("dt_init", dt_init, ("constant", "random"))
        require_choice("bimamba_type", bimamba_type, ("none", "v1", "v2"))
        for name, flag in {"if_divide_out": if_divide_out, "if_devide_out": if_devide_out}.items():
            require_flag(name, flag)
            require(not flag or bimamba_type == "v2", name, flag, 'False unless bimamba_type is "v2"')
        check_sizes({"d_model": d_model, "d_conv": d_conv}, d_state)
        fits = is_number(expand) and int(expand * d_model) >= 1
        require(fits, "expand", expand, "a number that makes at least one channel of d_model")
        require(dt_rank == "auto" or is_whole(dt_rank, 1), "dt_rank", dt_rank, '"auto" or a whole number of at least 1')
        require_flag("use_fast_path", use_fast_path)
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.use_fast_path, self.layer_idx, self.bimamba_type = use_fast_path, layer_idx, bimamba_type
        self.if_divide_out = if_divide_out or if_devide_out
        self.init_layer_scale = init_layer_scale
        factory = {"device": device, "dtype": dtype}

        if init_layer_scale is not None:
            self.gamma = nn.Parameter(torch.full((d_model,), float(init_layer_scale), device=device))
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **factory)
        self.activation, self.act = "silu", nn.SiLU()
        self._add_direction("", conv_bias, factory)
        if bimamba_type == "v1":
            self.A_b_log = self._initial_A_log(device)
        elif bimamba_type == "v2":
            self._add_direction("_b", conv_bias, factory)
        bound = self.dt_rank**-0.5 * dt_scale
        if dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, bound)
        else:
            nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        with torch.no_grad():
            self.dt_proj.bias.copy_(initial_dt_bias(self.d_inner, dt_min, dt_max, dt_init_floor, **factory))
        self.dt_proj.bias._no_reinit = True  # for code that sets the biases of all nn.Linear to zero
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)

    def _add_direction(self, suffix: str, conv_bias: bool, factory: dict[str, Any]) -> None:
        """The parameters of one direction; those of the second end in _b, and start as torch's layers do."""
        dim = self.d_inner
        convolution = nn.Conv1d(dim, dim, self.d_conv, groups=dim, padding=self.d_conv - 1, bias=conv_bias, **factory)
        self.add_module(f"conv1d{suffix}", convolution)
        self.add_module(f"x_proj{suffix}", nn.Linear(dim, self.dt_rank + 2 * self.d_state, bias=False, **factory))
        self.add_module(f"dt_proj{suffix}", nn.Linear(self.dt_rank, dim, **factory))
        D = nn.Parameter(torch.ones(dim, device=factory["device"]))
        D._no_weight_decay = True
        self.register_parameter(f"A{suffix}_log", self._initial_A_log(factory["device"]))
        self.register_parameter(f"D{suffix}", D)

    def _initial_A_log(self, device: torch.device | str | None) -> nn.Parameter:
        """S4D-Real: the states of each channel decay at rates of 1 to N."""
        rates = torch.arange(1, self.d_state + 1, dtype=torch.float32, device=device)
        A_log = nn.Parameter(rates.log().repeat(self.d_inner, 1))
        A_log._no_weight_decay = True
        return A_log

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        """The mixed sequence; (batch, length, d_model) in and out.

        Args:
            inference_params: an `InferenceParams`, to decode. At `seqlen_offset` 0 the sequence is a prompt, whose last
                states are kept in it; later it is one token, which advances them in place.

        Raises:
            UserError: another shape; decoding without `layer_idx`, in both directions, with states of another batch,
                or by more than one token.
        """
        if hidden_states.dim() != 3 or hidden_states.shape[2] != self.d_model:
            raise UserError(
                f"hidden_states must be (batch, length, {self.d_model}), got shape {tuple(hidden_states.shape)}"
            )
        states = None
        if inference_params is not None:
            self._require_one_direction()
            states = states_of_layer(self, inference_params, hidden_states.shape[0])
            if inference_params.seqlen_offset > 0:
                return self.step(hidden_states, *states)[0]
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        y = self._run(x, z, "", states)
        if self.bimamba_type == "v2":
            y = y + self._run(x.flip(1), z.flip(1), "_b").flip(1)
            y = y / 2 if self.if_divide_out else y
        return self._project_out(y)

    def _run(self, x: Tensor, z: Tensor, suffix: str, states: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The convolution, the scan and the gate of one direction; (batch, length, d_inner) in and out."""
        convolution, x_proj, dt_proj = (getattr(self, f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj"))
        if states is not None:
            states[0].copy_(F.pad(x.detach().transpose(1, 2), (self.d_conv - x.shape[1], 0)))
        x = self.act(convolution(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        dt, B, C = x_proj(x).split((self.dt_rank, self.d_state, self.d_state), dim=-1)
        dt = F.linear(dt, dt_proj.weight)
        options = {"D": _wide(getattr(self, f"D{suffix}")), "z": z}
        options |= {"delta_bias": _wide(dt_proj.bias), "delta_softplus": True}
        y, last_state = scan(x, dt, decays(getattr(self, f"A{suffix}_log")), B, C, **options)
        if states is not None:
            states[1].copy_(last_state.detach())
        if self.bimamba_type == "v1":
            y = y + scan(x, dt, decays(self.A_b_log), B, C, **options, reverse=True)[0]
        return y

    def _project_out(self, y: Tensor) -> Tensor:
        y = self.out_proj(y)
        return y if self.init_layer_scale is None else y * self.gamma

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One token; advances both states in place. No gradient passes the convolution or the scan: train on sequences.

        Args:
            hidden_states: (batch, 1, d_model).
            conv_state: (batch, d_inner, d_conv), the last inputs of the convolution.
            ssm_state: (batch, d_inner, N), the state of the scan.

        Returns:
            The output (batch, 1, d_model), and both states.

        Raises:
            UserError: more than one token, or a module that reads the sequence in both directions.
        """
        self._require_one_direction()
        require(hidden_states.shape[1] == 1, "the number of tokens", hidden_states.shape[1], "1 in a decoding step")
        x, z = self.in_proj(hidden_states.squeeze(1)).chunk(2, dim=-1)
        x = causal_conv1d_update(x, conv_state, self.conv1d.weight.squeeze(1), self.conv1d.bias, self.activation)
        dt, B, C = self.x_proj(x).split((self.dt_rank, self.d_state, self.d_state), dim=-1)
        dt = F.linear(dt, self.dt_proj.weight)
        options = {"D": _wide(self.D), "z": z, "dt_bias": _wide(self.dt_proj.bias), "dt_softplus": True}
        y = selective_state_update(ssm_state, x, dt, decays(self.A_log), B, C, **options)
        return self._project_out(y).unsqueeze(1), conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Zero states for `step`: conv_state and ssm_state.

        Args:
            max_seqlen, kwargs: of no effect: these states have one size for sequences of any length.
            dtype: of the states; that of the layers by default.
        """
        factory = {"device": self.out_proj.weight.device}
        conv_dtype, ssm_dtype = (dtype or layer.weight.dtype for layer in (self.conv1d, self.dt_proj))
        conv_state = torch.zeros(batch_size, self.d_inner, self.d_conv, dtype=conv_dtype, **factory)
        return conv_state, torch.zeros(batch_size, self.d_inner, self.d_state, dtype=ssm_dtype, **factory)

    def _require_one_direction(self) -> None:
        wanted = '"none" to decode: the other direction starts at the end of the sequence'
        require(self.bimamba_type == "none", "bimamba_type", self.bimamba_type, wanted)


class Block(block.Block):
    """mamba-ssm 1.x's block around a mixer: `mvc.compat.block.Block` without an MLP."""

    def __init__(
        self,
        dim: int,
        mixer_cls: Callable[[int], nn.Module],
        norm_cls: Callable[[int], nn.Module] = nn.LayerNorm,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
    ) -> None:
        super().__init__(dim, mixer_cls, nn.Identity, norm_cls, fused_add_norm, residual_in_fp32)


def check_sizes(sizes: dict[str, int], d_state: int) -> None:
    """Raise UserError for a size that is no whole number of at least 1, or for more states than the scan takes."""
    for name, size in sizes.items():
        require_whole(name, size, 1)
    require(is_whole(d_state, 1, MAX_STATES), "d_state", d_state, f"a whole number from 1 to {MAX_STATES}")


def initial_dt_bias(size: int, least: float, most: float, floor: float, **factory: Any) -> Tensor:
    """(size,), whose softplus is log-uniform from `least` to `most`, the `dt_min` and `dt_max` of a module."""
    holds = is_number(least) and is_number(most) and 0 < least <= most
    require(holds, "(dt_min, dt_max)", (least, most), "two positive numbers, the smaller one first")
    log_range = math.log(most) - math.log(least)
    dt = torch.exp(math.log(least) + torch.rand(size, **factory) * log_range).clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


def decays(A_log: Tensor) -> Tensor:
    """A, in float32 or in float64."""
    return -torch.exp(_wide(A_log))


def _wide(tensor: Tensor) -> Tensor:
    """In float32, or in float64 as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
