"""What `mvc.compat.install` makes importable, in interpreters of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from places import ROOT

without_mamba_ssm = pytest.mark.skipif(find_spec("mamba_ssm") is not None, reason="mamba-ssm is installed")


def run(script: str, *arguments: str, path: Path | None = None) -> str:
    """What the script prints in an interpreter of its own; `path` is searched for modules first."""
    paths = [str(path)] if path else []
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Written for mamba-ssm; mixes what its fast and its slow path call.
MODEL = """
import torch
from torch import nn
from torch.nn import functional as F
from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, selective_scan_fn

try:
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update
except ImportError:
    selective_state_update = None


class Mixer(nn.Module):
    def __init__(self, channels=8, states=4, rank=2, width=4):
        super().__init__()
        dim = 2 * channels
        self.rank, self.states = rank, states
        self.in_proj = nn.Linear(channels, 2 * dim, bias=False)
        self.conv1d = nn.Conv1d(dim, dim, width, groups=dim, padding=width - 1)
        self.x_proj = nn.Linear(dim, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, dim)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(dim, 1))
        self.D = nn.Parameter(torch.ones(dim))
        self.out_proj = nn.Linear(dim, channels, bias=False)

    def forward(self, hidden, fast):
        length, A = hidden.shape[1], -torch.exp(self.A_log.float())
        xz = self.in_proj(hidden).transpose(1, 2)
        options = {"delta_bias": self.dt_proj.bias.float(), "delta_softplus": True}
        if fast:
            weights = (self.conv1d.weight, self.conv1d.bias, self.x_proj.weight, self.dt_proj.weight)
            out = (self.out_proj.weight, self.out_proj.bias)
            return mamba_inner_fn(xz, *weights, *out, A, None, None, self.D.float(), **options)
        x, z = xz.chunk(2, dim=1)
        x = F.silu(self.conv1d(x)[..., :length])
        dt, B, C = self.x_proj(x.transpose(1, 2)).split((self.rank, self.states, self.states), dim=-1)
        dt = (dt @ self.dt_proj.weight.t()).transpose(1, 2)
        B, C = (t.transpose(1, 2).contiguous() for t in (B, C))
        y, last_state = selective_scan_fn(x, dt, A, B, C, self.D.float(), z=z, **options, return_last_state=True)
        assert last_state.shape == (hidden.shape[0], A.shape[0], self.states)
        return self.out_proj(y.transpose(1, 2))
"""

ABSENT = """
import importlib.metadata
from importlib.util import find_spec
assert find_spec("mamba_ssm") is None
import mvc.compat
mvc.compat.install()
import mamba_ssm
first = mamba_ssm
mvc.compat.install()
import mamba_ssm, mamba_ssm.modules.mamba_simple, mamba_ssm.ops.triton.selective_state_update
import causal_conv1d, selective_scan_cuda_core, selective_scan_cuda_oflex
assert mamba_ssm is first, "the second call installed again"
assert mamba_ssm.ops.selective_scan_interface.selective_scan_fn is mamba_ssm.selective_scan_fn
assert [name for name in mvc.compat.MODULES if find_spec(name) is None] == []
assert mamba_ssm.__version__ == mvc.compat.VERSIONS["mamba_ssm"]
assert causal_conv1d.__version__ == mvc.compat.VERSIONS["causal_conv1d"]
assert mamba_ssm.Mamba is mamba_ssm.modules.mamba_simple.Mamba
assert mamba_ssm.Mamba2 is mamba_ssm.modules.mamba2.Mamba2
assert selective_scan_cuda_core.fwd is not selective_scan_cuda_oflex.fwd
assert find_spec("mamba_ssm.models") is None
for statement in ("from mamba_ssm import MambaLMHeadModel", "import mamba_ssm.ops.triton.softplus"):
    try:
        exec(statement)
    except ImportError as error:
        print(error)
try:
    importlib.metadata.version("mamba_ssm")
except importlib.metadata.PackageNotFoundError:
    pass

import torch, model
torch.manual_seed(0)
mixer, hidden = model.Mixer(), torch.randn(2, 7, 8)
assert model.selective_state_update is not None
fast, slow = mixer(hidden, True), mixer(hidden, False)
torch.testing.assert_close(fast, slow)
slow.sum().backward()
for path in (True, False):
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(hidden, path), slow)
    graph = torch.export.export(mixer, (hidden, path)).graph
    assert sum(node.target is torch.ops.mvc.selective_scan.default for node in graph.nodes) == 1
"""


@without_mamba_ssm
def test_code_for_mamba_ssm_runs_unchanged(tmp_path):
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    no_model, no_softplus = run(ABSENT, path=tmp_path).splitlines()
    assert no_model.startswith("cannot import name 'MambaLMHeadModel' from 'mamba_ssm'")
    assert str(ROOT / "mvc") in no_model, "the message names the stand-in's file"
    assert no_softplus == "No module named 'mamba_ssm.ops.triton.softplus'"


REFUSED = """
import sys, types
import mvc.compat
if "stand-in" in sys.argv:
    sys.modules["mamba_ssm"] = types.ModuleType("mamba_ssm")
before = sys.modules.get("mamba_ssm")
try:
    mvc.compat.install()
except ImportError as error:
    print(error)
assert sys.modules.get("mamba_ssm") is before
"""


@pytest.mark.parametrize("form", ["package", "folder"])
def test_mamba_ssm_is_left_alone(tmp_path, form):
    (tmp_path / "mamba_ssm").mkdir()
    if form == "package":
        (tmp_path / "mamba_ssm" / "__init__.py").touch()
    message = run(REFUSED, path=tmp_path)
    assert str(tmp_path / "mamba_ssm") in message
    assert "uninstall it, or import the functions from mvc.compat.mamba_ssm" in message


def test_another_stand_in_is_left_alone():
    assert "mamba_ssm is there already (without a file)" in run(REFUSED, "stand-in")


BESIDE = """
import causal_conv1d
import mvc.compat
mvc.compat.install()
import mamba_ssm, selective_scan_cuda, selective_scan_cuda_oflex
assert causal_conv1d.mine and not hasattr(causal_conv1d, "causal_conv1d_fn")
assert selective_scan_cuda_oflex.mine and not hasattr(selective_scan_cuda_oflex, "fwd")
assert selective_scan_cuda.fwd
assert mamba_ssm.Mamba(4)
"""


@without_mamba_ssm
def test_other_packages_are_left_alone(tmp_path):
    """One that is imported and one that only could be."""
    for name in ("causal_conv1d", "selective_scan_cuda_oflex"):
        (tmp_path / f"{name}.py").write_text("mine = True", encoding="utf-8")
    run(BESIDE, path=tmp_path)


LIGHT = """
import sys
import mvc.compat
print([name for name in sys.modules if name.startswith("mvc.compat.") or name == "torch"])
"""


def test_the_import_alone_is_light():
    assert run(LIGHT).strip() == "[]"


MAMBAPY = """
import mvc.compat
mvc.compat.install()
import torch
from mambapy.mamba import Mamba, MambaConfig
models = []
for use_cuda in (False, True):
    torch.manual_seed(0)
    models.append(Mamba(MambaConfig(d_model=8, n_layers=1, d_state=4, use_cuda=use_cuda)))
assert models[1].config.use_cuda, "mambapy did not find mamba_ssm"
x = torch.randn(2, 16, 8)
torch.testing.assert_close(models[1](x), models[0](x))
"""


@without_mamba_ssm
def test_mambapy_takes_its_fast_path_on_a_cpu():
    pytest.importorskip("mambapy", reason="mambapy is not installed")
    run(MAMBAPY)


TRANSFORMERS = """
import sys, warnings
import torch
import mvc.compat
import mvc.kernels.ops
path, installed = sys.argv[1], len(sys.argv) == 3
if installed:
    mvc.compat.install()
import transformers as hf
from mvc.compat import causal_conv1d

convolve, convolutions = causal_conv1d._convolve, []
causal_conv1d._convolve = lambda *inputs: convolutions.append(None) or convolve(*inputs)
tokens, results = torch.randint(20, (2, 9), generator=torch.Generator().manual_seed(0)), {}


def make(name, **sizes):
    torch.manual_seed(0)
    config = getattr(hf, name + "Config")(vocab_size=20, hidden_size=16, state_size=4, num_hidden_layers=2, **sizes)
    return getattr(hf, name + "ForCausalLM")(config).eval()


models = {"Mamba": {}, "FalconMamba": {}, "Mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 4}}
models = {name: make(name, **sizes) for name, sizes in models.items()}
for name, model in models.items():
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    generated = model.generate(tokens, output_logits=True, return_dict_in_generate=True, **options)
    results[name + " prefill and decoding"] = torch.stack(generated.logits)

results["convolutions"] = len(convolutions)
causal_conv1d._convolve = convolve
is_scan = lambda node: node.target is torch.ops.mvc.selective_scan.default
for name in ("Mamba", "Mamba2"):
    model, graphs = models[name], []
    torch.compile(model, fullgraph=True, backend=lambda gm, inputs: graphs.append(gm) or gm)(tokens, use_cache=False)
    results[f"scans of {name} compiled"] = sum(map(is_scan, graphs[0].graph.nodes))
    program = torch.export.export(model, (tokens,), {"use_cache": False}, strict=False)
    results[f"scans of {name} exported"] = sum(map(is_scan, program.graph.nodes))
    loss = model.train()(tokens, labels=tokens).loss
    loss.backward()
    results[f"loss of {name}"] = loss.detach()
    results |= {f"gradient of {name}'s {parameter}": p.grad for parameter, p in model.named_parameters()}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    mvc.compat.install()
results["warnings"] = [str(warning.message) for warning in caught]
torch.save(results, path)
"""


@pytest.fixture(scope="module")
def transformers_runs(tmp_path_factory) -> SimpleNamespace:
    """What transformers computes when install() runs after its models are imported, and before."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder = tmp_path_factory.mktemp("transformers")
    run(TRANSFORMERS, str(folder / "after.pt"))
    run(TRANSFORMERS, str(folder / "before.pt"), "install")
    return SimpleNamespace(**{name: torch.load(folder / f"{name}.pt") for name in ("after", "before")})


@without_mamba_ssm
@pytest.mark.slow
def test_transformers_computes_the_same_with_the_op(transformers_runs):
    for name, expected in transformers_runs.after.items():
        if torch.is_tensor(expected):
            torch.testing.assert_close(
                transformers_runs.before[name], expected, msg=lambda text, name=name: f"{name}: {text}"
            )


@without_mamba_ssm
@pytest.mark.slow
def test_transformers_takes_the_op_unless_it_exports(transformers_runs):
    for name in ("Mamba", "Mamba2"):
        assert transformers_runs.after[f"scans of {name} compiled"] == 0
        assert transformers_runs.before[f"scans of {name} compiled"] == 2
        assert transformers_runs.before[f"scans of {name} exported"] == 0


@without_mamba_ssm
@pytest.mark.slow
def test_transformers_takes_the_convolution(transformers_runs):
    """Of three models with two layers each, in a prompt and in two steps of decoding."""
    assert transformers_runs.after["convolutions"] == 0
    assert transformers_runs.before["convolutions"] == 3 * 2 * 3


@without_mamba_ssm
@pytest.mark.slow
def test_install_after_transformers_says_so(transformers_runs):
    assert transformers_runs.before["warnings"] == []
    (message,) = transformers_runs.after["warnings"]
    assert "transformers.models.mamba.modeling_mamba" in message
    assert "transformers.models.mamba2.modeling_mamba2" in message
    assert "start again and call install() first" in message
