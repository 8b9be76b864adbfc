"""mamba-ssm's module `Mamba`, in one direction and in two, against formulas written out in `compat_cases`."""

from __future__ import annotations

import pytest
import torch
from compat_cases import assert_like, inner_scans
from scan_cases import assert_within_budget
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from mvc.compat.generation import InferenceParams
from mvc.compat.mamba_simple import Mamba
from mvc.errors import UserError
from mvc.passes.lowering.lower_scan import LowerScan

D_MODEL, LENGTH = 6, 7
SIZES = {"d_model": D_MODEL, "d_state": 5, "d_conv": 3, "dt_rank": 2}
BASE = {"in_proj.weight": (24, 6), "conv1d.weight": (12, 1, 3), "conv1d.bias": (12,), "x_proj.weight": (12, 12)}
BASE |= {"dt_proj.weight": (12, 2), "dt_proj.bias": (12,), "A_log": (12, 5), "D": (12,), "out_proj.weight": (6, 12)}
SECOND = {"conv1d_b.weight": (12, 1, 3), "conv1d_b.bias": (12,), "x_proj_b.weight": (12, 12)}
SECOND |= {"dt_proj_b.weight": (12, 2), "dt_proj_b.bias": (12,), "A_b_log": (12, 5), "D_b": (12,)}


def mamba(**options) -> Mamba:
    torch.manual_seed(0)
    return Mamba(**SIZES | options)


def written_out(module: Mamba):
    """The module's formula, as a function of its parameters and its input."""

    def direction(xz, p, suffix="", **more):
        weights = {
            "conv1d_weight": p[f"conv1d{suffix}.weight"],
            "conv1d_bias": p.get(f"conv1d{suffix}.bias"),
            "x_proj_weight": p[f"x_proj{suffix}.weight"],
            "delta_proj_weight": p[f"dt_proj{suffix}.weight"],
            "delta_bias": p[f"dt_proj{suffix}.bias"],
            "A": -torch.exp(p[f"A{suffix}_log"]),
            "D": p[f"D{suffix}"],
        }
        return inner_scans(xz, **weights, **more)

    def run(hidden, **p):
        xz = F.linear(hidden, p["in_proj.weight"], p.get("in_proj.bias")).transpose(1, 2)
        y = direction(xz, p, **({"A_b": -torch.exp(p["A_b_log"])} if module.bimamba_type == "v1" else {}))
        if module.bimamba_type == "v2":
            y = y + direction(xz.flip(-1), p, "_b").flip(-1)
            y = y / 2 if module.if_divide_out else y
        y = F.linear(y.transpose(1, 2), p["out_proj.weight"], p.get("out_proj.bias"))
        return y * p["gamma"] if "gamma" in p else y

    return run


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": True, "conv_bias": False, "expand": 1.5, "dt_init": "constant"},
        {"bimamba_type": "v1", "init_layer_scale": 0.1},
        {"bimamba_type": "v2"},
        {"bimamba_type": "v2", "if_divide_out": True, "use_fast_path": False},
        {"bimamba_type": "v2", "if_devide_out": True, "conv_bias": False},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "plain",
)
def test_the_formula(options):
    module = mamba(**options)
    hidden = torch.randn(2, LENGTH, D_MODEL)
    inputs = {"hidden": hidden, **{name: p.detach() for name, p in module.named_parameters()}}
    assert_like(lambda hidden, **p: functional_call(module, p, hidden), written_out(module), inputs)


def test_float64_throughout():
    module = mamba(bimamba_type="v2").double()
    hidden = torch.randn(2, LENGTH, D_MODEL, dtype=torch.float64)
    torch.testing.assert_close(module(hidden), written_out(module)(hidden, **dict(module.named_parameters())))


@pytest.mark.parametrize("kind", ["module", "autocast"])
def test_half_precision(kind):
    module, hidden = mamba(), torch.randn(2, LENGTH, D_MODEL)
    if kind == "module":
        module, hidden = module.bfloat16(), hidden.bfloat16()
    params = dict(module.named_parameters())
    oracle = written_out(module)(hidden.double(), **{name: p.double() for name, p in params.items()})
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
        y, baseline = module(hidden), written_out(module)(hidden, **params)
    assert y.dtype == torch.bfloat16
    assert_within_budget(y, oracle, baseline, "y")
    y.sum().backward()


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({}, BASE),
        ({"bimamba_type": "v1"}, BASE | {"A_b_log": (12, 5)}),
        ({"bimamba_type": "v2", "init_layer_scale": 1e-2}, BASE | SECOND | {"gamma": (6,)}),
        ({"bias": True}, BASE | {"in_proj.bias": (24,), "out_proj.bias": (6,)}),
    ],
    ids=["plain", "v1", "v2", "bias"],
)
def test_parameters_are_those_of_checkpoints(options, shapes):
    parameters = dict(mamba(**options).named_parameters())
    assert {name: tuple(p.shape) for name, p in parameters.items()} == shapes
    undecayed = {name for name, p in parameters.items() if getattr(p, "_no_weight_decay", False)}
    assert undecayed == {"A_log", "D", "A_b_log", "D_b"} & set(shapes)
    assert [name for name, p in parameters.items() if getattr(p, "_no_reinit", False)] == ["dt_proj.bias"]


def test_initial_values():
    module = Mamba(32, bimamba_type="v2", init_layer_scale=0.5, dt_min=0.01, dt_max=0.2, dt_init_floor=0.02)
    assert (module.d_inner, module.dt_rank, module.d_state, module.d_conv) == (64, 2, 16, 4)
    rates = torch.arange(1.0, 17).repeat(64, 1)
    torch.testing.assert_close(module.A_log.exp(), rates)
    torch.testing.assert_close(module.A_b_log.exp(), rates)
    assert (module.D == 1).all()
    assert (module.D_b == 1).all()
    assert (module.gamma == 0.5).all()
    steps = F.softplus(module.dt_proj.bias)
    assert steps.min() >= 0.02 * (1 - 1e-5)
    assert steps.max() <= 0.2 * (1 + 1e-5)
    assert ((steps - 0.02).abs() < 1e-6).any(), "some of the steps below the floor are raised to it"
    assert module.dt_proj.weight.abs().max() <= 2**-0.5
    constant = Mamba(32, dt_init="constant", dt_scale=0.5)
    torch.testing.assert_close(constant.dt_proj.weight, torch.full((64, 2), 0.5 * 2**-0.5))


def test_dtype_and_device():
    module = Mamba(8, dtype=torch.bfloat16, bimamba_type="v2")
    kept = {name for name, p in module.named_parameters() if p.dtype == torch.float32}
    assert kept == {"A_log", "D", "A_b_log", "D_b"}
    assert all(p.is_meta for p in Mamba(8, device="meta", init_layer_scale=1.0, bimamba_type="v2").parameters())


def decode(module: Mamba, hidden: Tensor, prompt: int) -> Tensor:
    params = InferenceParams(max_seqlen=hidden.shape[1], max_batch_size=hidden.shape[0])
    outputs = [module(hidden[:, :prompt], inference_params=params)]
    for t in range(prompt, hidden.shape[1]):
        params.seqlen_offset = t
        outputs.append(module(hidden[:, t : t + 1], inference_params=params))
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("prompt", [1, 2, 5])
@pytest.mark.parametrize("options", [{}, {"conv_bias": False, "init_layer_scale": 0.3}], ids=["plain", "scaled"])
def test_a_prompt_and_steps_make_the_sequence(prompt, options):
    module, hidden = mamba(layer_idx=3, **options), torch.randn(2, LENGTH, D_MODEL)
    torch.testing.assert_close(decode(module, hidden, prompt), module(hidden))


def test_steps_alone_make_the_sequence():
    module, hidden = mamba(expand=1.5), torch.randn(2, LENGTH, D_MODEL)
    conv_state, ssm_state = module.allocate_inference_cache(2, LENGTH)
    outputs = []
    for t in range(LENGTH):
        out, *states = module.step(hidden[:, t : t + 1], conv_state, ssm_state)
        assert states[0] is conv_state
        assert states[1] is ssm_state
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, dim=1), module(hidden))


def test_states_of_the_cache():
    module = mamba(layer_idx=3)
    states = module.allocate_inference_cache(4, 100, dtype=torch.bfloat16)
    assert [(tuple(t.shape), t.dtype) for t in states] == [
        ((4, 12, 3), torch.bfloat16),
        ((4, 12, 5), torch.bfloat16),
    ]
    params = InferenceParams(8, 2, key_value_memory_dict={3: module.allocate_inference_cache(2, 8)})
    given = params.key_value_memory_dict[3]
    module(torch.randn(2, 4, D_MODEL), inference_params=params)
    assert params.key_value_memory_dict[3] is given
    assert all(t.abs().max() > 0 and not t.requires_grad for t in given), "the prompt's states are in the given tensors"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dt_init": "zero"}, "dt_init is 'zero'; it must be one of constant, random"),
        ({"bimamba_type": "v3"}, "bimamba_type is 'v3'; it must be one of none, v1, v2"),
        ({"if_divide_out": True}, 'if_divide_out is True; it must be False unless bimamba_type is "v2"'),
        ({"if_devide_out": True, "bimamba_type": "v1"}, "if_devide_out is True"),
        ({"d_state": 257}, "d_state is 257; it must be a whole number from 1 to 256"),
        ({"d_conv": 0}, "d_conv is 0; it must be a whole number of at least 1"),
        ({"expand": 0.1}, "expand is 0.1; it must be a number that makes at least one channel"),
        ({"dt_rank": "full"}, "dt_rank is 'full'; it must be \"auto\" or a whole number"),
        ({"dt_min": 0}, r"\(dt_min, dt_max\) is \(0, 0.1\); it must be two positive numbers"),
        ({"use_fast_path": 1}, "use_fast_path is 1; it must be True or False"),
    ],
)
def test_the_constructor_says_what_is_wrong(options, message):
    with pytest.raises(UserError, match=message):
        mamba(**options)


def test_calls_say_what_is_wrong():
    hidden, params = torch.ones(2, 3, D_MODEL), InferenceParams(8, 2)
    with pytest.raises(UserError, match=r"hidden_states must be \(batch, length, 6\), got shape \(2, 3\)"):
        mamba()(hidden[..., 0])
    with pytest.raises(UserError, match="layer_idx is None; it must be the number of this layer, to decode"):
        mamba()(hidden, inference_params=params)
    with pytest.raises(UserError, match="bimamba_type is 'v2'; it must be \"none\" to decode"):
        mamba(layer_idx=0, bimamba_type="v2")(hidden, inference_params=params)
    module = mamba(layer_idx=0)
    module(hidden, inference_params=params)
    with pytest.raises(UserError, match="states of 2 sequences, and this call has 1"):
        module(hidden[:1], inference_params=params)
    params.seqlen_offset = 3
    with pytest.raises(UserError, match="the number of tokens is 3; it must be 1 in a decoding step"):
        module(hidden, inference_params=params)


@pytest.mark.parametrize(("kind", "scans"), [("none", 1), ("v1", 2), ("v2", 2)])
def test_compiled_in_one_graph_with_the_op(kind, scans):
    module, hidden, graphs = mamba(bimamba_type=kind), torch.randn(2, LENGTH, D_MODEL), []
    compiled = torch.compile(module, fullgraph=True, backend=lambda gm, inputs: graphs.append(gm) or gm)
    torch.testing.assert_close(compiled(hidden), module(hidden))
    (gm,) = graphs
    assert sum(node.target is torch.ops.mvc.selective_scan.default for node in gm.graph.nodes) == scans
    assert LowerScan(None)(gm.graph).matches == scans, "the backend's pass does not see the op"


def test_a_decoding_step_compiled_in_one_graph():
    module, hidden = mamba(), torch.randn(2, 1, D_MODEL)
    states = [module.allocate_inference_cache(2, 1) for _ in range(2)]
    with torch.no_grad():
        compiled = torch.compile(module.step, fullgraph=True, backend="aot_eager")(hidden, *states[0])
        torch.testing.assert_close(compiled, module.step(hidden, *states[1]))
