"""torch.compile(model, backend="mvc") as a user calls it."""

import json
import logging
import os
import subprocess
import sys

import pytest
import torch
from scan_cases import Case, make_inputs, tensors_of
from toy_passes import Break, Replace

from mvc import create_model, explain, selective_scan
from mvc.compile.backend import Options, mvc
from mvc.compile.compiler import check_against_eager
from mvc.errors import UserError
from mvc.passes.pipeline import PASSES
from mvc.passes.verify import VerificationError

pytestmark = pytest.mark.versions


def wave(x):
    return torch.sin(x) + x.exp()


def compiled(function, **options):
    torch.compiler.reset()
    return torch.compile(function, backend=mvc, options=options or None, fullgraph=True)


def run_python(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


FOUND = """
import torch
torch.testing.assert_close(torch.compile(torch.sin, backend="mvc")(torch.ones(3)), torch.ones(3).sin())
"""


def test_torch_finds_the_backend_without_an_import():
    from importlib.metadata import entry_points

    (found,) = entry_points(group="torch_dynamo_backends", name="mvc")
    assert found.value == "mvc.compile.backend:mvc"
    run_python(FOUND)


CACHED = """
import json, sys, torch
from torch._dynamo.utils import counters
x, w = torch.ones(3, 4), torch.ones(4, 4, requires_grad=True)
torch.compile(lambda x, w: (x @ w).sin(), backend="mvc", options=json.loads(sys.argv[1]))(x, w).sum().backward()
assert torch.compiler.config.cache_key_tag == ""
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.mark.slow
def test_second_process_takes_the_code_from_the_cache(tmp_path):
    """Forward and backward; one with another option takes neither."""
    again = '{"recompute": true}'
    for options, hits_and_misses in (("{}", "0 2"), ("{}", "2 0"), (again, "0 2"), (again, "2 0")):
        seen = run_python(CACHED, options, TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
        assert seen.strip() == hits_and_misses, options


CACHED_SCAN = """
import json, sys, torch
from torch._dynamo.utils import counters
from mvc import linear_recurrence, selective_scan

class Scan(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.A = torch.nn.Parameter(torch.linspace(0, 1, 16).view(4, 4))
    def forward(self, u):
        y = selective_scan(u, u, -self.A.exp(), u, u, delta_softplus=True)
        return linear_recurrence(y.sigmoid(), y, dim=1)

frozen = json.loads(sys.argv[1])
model, u = Scan(), torch.linspace(-1, 1, 48).view(1, 12, 4)
with torch.set_grad_enabled(not frozen):
    y = torch.compile(model, backend="mvc", options={"impl": "chunked", "frozen": frozen})(u)
    torch.testing.assert_close(y, model(u))
if not frozen:
    y.sum().backward()
inductor, autograd = counters["inductor"], counters["aot_autograd"]
found = [inductor[f"fxgraph_cache_{what}"] for what in ("hit", "miss", "bypass")]
print(json.dumps([*found, *(autograd[f"autograd_cache_{what}"] for what in ("hit", "miss"))]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True], ids=["training", "frozen"])
def test_second_process_takes_the_code_of_a_chunked_scan_from_the_cache(frozen, tmp_path):
    first, second = (
        json.loads(run_python(CACHED_SCAN, json.dumps(frozen), TORCHINDUCTOR_CACHE_DIR=str(tmp_path))) for _ in range(2)
    )
    graphs = 1 if frozen else 2  # of a forward and a backward
    assert first == [0, graphs, 0, 0, 1]
    assert second == [graphs, 0, 0, 1, 0]


def test_inference_and_training_compute_the_same():
    tensors = {n: t.requires_grad_(t.is_floating_point()) for n, t in tensors_of(make_inputs(Case())).items()}

    def scan(tensors):
        return selective_scan(**tensors, delta_softplus=True)

    expected, actual = scan(tensors), compiled(scan)(tensors)
    torch.testing.assert_close(actual, expected)
    leaves = [t for t in tensors.values() if t.requires_grad]
    gradients = (torch.autograd.grad(y.square().sum(), leaves) for y in (actual, expected))
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_chunked_scan_becomes_torch_operations():
    """Inductor then sees no custom op, forward or backward."""
    tensors = {n: t.requires_grad_(t.is_floating_point()) for n, t in tensors_of(make_inputs(Case(length=3))).items()}
    explanation = explain(lambda t: selective_scan(**t), tensors, options={"impl": "chunked"})
    assert explanation.launches
    assert not [name for name in explanation.launches if "mvc" in name]


@pytest.mark.parametrize("mark", [True, False], ids=["mark_dynamic", "dynamic=True"])
def test_dynamic_shapes_share_a_graph(mark):
    graphs = []

    def backend(graph_module, inputs):
        graphs.append(graph_module)
        return mvc(graph_module, inputs)

    torch.compiler.reset()
    run = torch.compile(lambda u, A, B: selective_scan(u, u, A, B, B), backend=backend, dynamic=None if mark else True)
    for length in (5, 9):
        u, A, B = torch.rand(3, length, 4), -torch.rand(4, 2), torch.rand(3, length, 2)
        if mark:
            torch._dynamo.mark_dynamic(u, 1)
            torch._dynamo.mark_dynamic(B, 1)
        torch.testing.assert_close(run(u, A, B), selective_scan(u, u, A, B, B))
    assert len(graphs) == 1


class Counting(torch._inductor.custom_graph_pass.CustomGraphPass):
    """A user's own Inductor pass."""

    count = 0

    def __call__(self, graph):
        type(self).count += 1

    def uuid(self):
        return "counting"


@pytest.mark.parametrize("where", ["option", "configuration"])
def test_inductors_custom_passes_of_the_user_run_too(where):
    Counting.count = 0
    own = {"post_grad_custom_post_pass": Counting()}
    with torch._inductor.config.patch(own if where == "configuration" else {}):
        before = torch._inductor.config.save_config_portable()
        compiled(wave, fx_graph_cache=False, **(own if where == "option" else {}))(torch.ones(3))
        assert torch._inductor.config.save_config_portable() == before, "no configuration is left behind"
    assert Counting.count == 1


def test_passes_of_ones_own():
    x = torch.ones(3)
    torch.testing.assert_close(compiled(wave, passes=[Replace()])(x), x.cos() + x.exp())


def test_failing_pass_does_not_fail_the_compile(caplog):
    x = torch.ones(3)
    with caplog.at_level(logging.WARNING, logger="mvc"):
        torch.testing.assert_close(compiled(wave, passes=[Break()])(x), wave(x))
    assert "pass break failed and was skipped: RuntimeError: half-way" in caplog.text
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="half-way"):
        compiled(wave, passes=[Break()], strict=True)(x)


def test_verification_stops_a_wrong_pass():
    with pytest.raises(Exception, match="pass replace changed output 0") as caught:
        compiled(wave, passes=[Replace()], verify=True)(torch.ones(3))
    assert isinstance(getattr(caught.value, "inner_exception", caught.value), VerificationError)


def test_modes_pass_through():
    for options in ({"mode": "reduce-overhead"}, {"mode": "max-autotune", "max_autotune_gemm": False}):
        torch.testing.assert_close(compiled(wave, **options)(torch.ones(3)), wave(torch.ones(3)))
    torch.compiler.reset()
    run = torch.compile(wave, backend=mvc, mode="reduce-overhead")
    torch.testing.assert_close(run(torch.ones(3)), wave(torch.ones(3)))


@pytest.mark.parametrize("how", [{"mode": "reduce-overhead"}, {"options": {"mode": "reduce-overhead"}}], ids=str)
def test_a_training_step_of_the_model_is_right_in_a_mode(how):
    """On a CPU the mode records no graphs."""
    torch.manual_seed(0)
    model = create_model("tiny", depths=(1, 1, 1, 1), drop_path_rate=0.0)
    torch.compiler.reset()
    run = torch.compile(model, backend="mvc", fullgraph=True, **how)
    check = check_against_eager(model, run, torch.randn(2, 3, 32, 32))
    assert check.passed, check


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": "some"}, "passes is 'some'"),
        ({"passes": ["raise_lop"]}, "passes has 'raise_lop'"),
        ({"passes": [3]}, "passes has 3"),
        ({"impl": "cuda"}, "impl is 'cuda'"),
        ({"kernels": "mine"}, "kernels is 'mine'"),
        ({"verify": 1}, "verify is 1"),
        ({"mode": "fast"}, "mode is 'fast'"),
        ({"frozzen": True}, "did you mean 'frozen'"),
        ({"max_autotun": True}, "did you mean 'max_autotune'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unusable_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        Options.parse(options)


def test_options_of_inductor_are_its_own():
    parsed = Options.parse({"max-autotune": True, "impl": "chunked"}, mode=None)
    assert parsed.inductor == {"max_autotune": True}
    assert [each.name for each in Options.parse({"passes": "none"}).build_passes(inference=True)] == []
    everything = [each.name for each in Options.parse({"frozen": True}).build_passes(inference=True)]
    assert everything == list(PASSES)


def test_explanation_tells_passes_misses_and_launches():
    explanation = explain(wave, torch.ones(3), options={"passes": [Replace()]})
    text = str(explanation)
    (graph,) = explanation.graphs
    assert (graph.before["sin"], graph.after["sin"], graph.after["cos"]) == (1, 0, 1)
    assert "replace left exp alone: an exponential" in text
    assert "test_backend.py" in text
    assert explanation.launches.total() == 1
    assert explanation.bytes_moved == 2 * 3 * 4, "three floats read and three written"
    assert json.loads(json.dumps(explanation.as_dict()))["graphs"][0]["passes"][0]["matches"] == 1


def test_explanation_of_training_counts_the_backward():
    x = torch.ones(3, requires_grad=True)
    inference = explain(wave, x.detach())
    assert explain(wave, x).launches.total() > inference.launches.total()
    assert x.grad is None


def test_explain_is_a_function_whatever_was_imported_before():
    import mvc
    import mvc.compile.compiler

    assert callable(mvc.explain)
