"""Cases of anyone's: how their functions are asked, and what is said of those that cannot be measured."""

import builtins
import contextlib
import dataclasses
import itertools
import random
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from places import ROOT

import mvc
from mvc.regress import cases
from mvc.regress.cases import Case
from mvc.regress.process import call, facts, main
from mvc.regress.process.built import Built, Refused
from mvc.regress.worker import Facts, unexpected

serial = itertools.count()
SETS = """
import random, torch
seen, log = [], log

def case(size, device):
    x = torch.rand(size, device=device)
    log.append(("set up", random.random(), x.sum().item()))
    yield lambda x: seen.append(x.data_ptr()), (x,)
    log.append("torn down")
"""
BACKWARD = """
import torch
model = torch.nn.Linear(3, 2)

def inside():
    x = torch.ones(4, 3, requires_grad=True)
    return lambda x: {"y": (model(x), "no tensor"), "count": torch.ones(1, dtype=torch.int64)}, (x,)

def module():
    return model.requires_grad_(True), (torch.ones(4, 3),)

def nothing():
    return lambda x: x, (torch.ones(3),)
"""


@pytest.fixture
def built(tmp_path, monkeypatch):
    """Builds a case from the text of a module, in this process."""

    def built(text, function, paths=(), **fields):
        name = f"measured_{next(serial)}"  # modules stay imported
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(builtins, "log", log := [], raising=False)
        case = Case("a", kind="call", call=f"{name}:{function}", **fields)
        made = main.build(case.as_dict(), paths)
        return made, sys.modules[name], log

    return built


def test_the_function_is_asked_for_each_set_and_calls_rotate(built):
    made, module, log = built(SETS, "case", arguments={"size": 5}, inputs=3)
    first = module.seen.copy()
    assert made.every == len(first) == len({*first}) == 3
    for _ in range(4):
        made.run()
    assert module.seen == [*first, *first, first[0]]
    expected = []
    for seed in range(3):
        random.seed(seed)
        torch.manual_seed(seed)
        expected.append(("set up", random.random(), torch.rand(5).sum().item()))
    assert log == expected
    made.close()
    assert log == [*expected, *["torn down"] * 3]


@pytest.mark.parametrize(("function", "shapes"), [("inside", [(2, 3), (2,), (4, 3)]), ("module", [(2, 3), (2,)])])
def test_gradients_reach_arguments_and_parameters(built, function, shapes):
    made, _, _ = built(BACKWARD, function, backward=True)
    assert sorted(tuple(each.shape) for each in made.run()) == sorted(shapes)


def test_a_failing_set_tears_down_the_others(built):
    text = "def case():\n    log.append('up')\n    yield (print if len(log) < 3 else 0), ()\n    log.append('down')\n"
    with pytest.raises(Refused, match="returned int and tuple; it must return a callable"):
        built(text, "case", inputs=3)
    assert builtins.log == ["up", "up", "up", "down", "down", "down"]


@pytest.mark.parametrize(
    ("function", "fields", "message"),
    [
        ("missing", {}, r"call is '.*:missing', but .*\.py has no 'missing'"),
        ("number", {}, r"call is '.*:number', which is int; it must be a function"),
        ("alone", {}, r":alone returned builtin_function_or_method; it must return, or yield once, a callable and"),
        ("swapped", {}, r":swapped returned tuple and builtin_function_or_method; it must return a callable and"),
        ("empty", {}, r":empty returned NoneType; it must return, or yield once"),
        ("alone", {"arguments": {"size": 3}}, r":alone does not accept the case's arguments: .*'size'"),
        ("wants", {}, r":wants does not accept the case's arguments: missing a required argument: 'size'"),
        ("plain", {"backward": True}, r"backward is set, but no output of .*:plain requires a gradient"),
        ("plain", {"device": "cuda"}, "torch finds no CUDA device"),
    ],
)
def test_wrong_use_is_one_sentence(built, function, fields, message, monkeypatch):
    text = (
        "number = 3\ndef alone(): return print\ndef swapped(): return (), print\ndef wants(size): return print, ()\n"
        "def plain(): return print, ()\ndef empty():\n    return\n    yield\n"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match=message) as refusal:
        built(text, function, **fields)
    assert "\n" not in str(refusal.value)


def test_what_comes_from_elsewhere_is_refused(built, tmp_path):
    sources = tmp_path / "sources"
    sources.mkdir()
    with pytest.raises(Refused, match=rf"^imports measured_\d+ from {tmp_path}, not from {sources}$"):
        built("def case(): return print, ()", "case", [str(sources)])
    made, _, _ = built("def case(): return print, ()", "case", [str(tmp_path)])
    assert made.facts["source"].startswith(str(tmp_path))


def test_a_module_that_is_missing_is_told_from_one_that_it_misses(tmp_path, monkeypatch):
    case = Case("a", kind="call", call="no_such_package.inner:case")
    with pytest.raises(Refused, match=r"there is no module 'no_such_package' in here; call is 'package\.module:f"):
        call.build(case.as_dict(), ["here"])
    (tmp_path / "misses_another.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        call.build(dataclasses.replace(case, call="misses_another:case").as_dict(), [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[cases.a]\ncall = "package.module"', r"call is 'package\.module'; it must be 'package\.module:function'"),
        ('[cases.a]\ncall = "m:f"\nvariant = "T"', "'variant' is unknown; known are name, kind, call, arguments"),
        ('[cases.a]\nkind = "scan"\ncall = "m:f"', "'call' is unknown; known are name, kind, training"),
        ('[cases.a]\ncall = "m:f"\ncompile = {graph = 1}', "compile has 'graph'; it may have backend, mode"),
        ('[cases.a]\ncall = "m:f"\ncompile = "yes"', "compile is 'yes'; it must be true or false or a table"),
        ('[cases.a]\ncall = "m:f"\nexact = ["graphs"]', "exact has 'graphs'; it may have graph breaks, recompiles"),
        ('[cases.a]\ncall = "m:f"\nexact = ["launches"]', "'launches', which only what is compiled has; set compile"),
        ('[cases.a]\ncall = "m:f"\ninputs = 0', "inputs is 0; it must be at least 1"),
        ('[cases.a]\ncall = "m:f"\narguments = 3', "arguments is 3; it must be a table"),
        ('[cases.a]\ncall = "m:f"\nthresholds = 3', "case a: thresholds is 3; it must be a table"),
        ('[cases.a]\ncall = "m:f"\nthresholds = {effect = 2}', "thresholds of case a: effect is 2; it must lie"),
        ('[cases.a]\nscan = "fast"', "scan is 'fast'; it must be cpp or triton or chunked$"),
    ],
)
def test_a_wrong_case_is_one_sentence(text, message, tmp_path):
    (tmp_path / "cases.toml").write_text(text)
    with pytest.raises(cases.UserError, match=message):
        cases.load(tmp_path / "cases.toml")


def test_a_case_may_have_thresholds_of_its_own(tmp_path):
    text = '[thresholds]\neffect = 0.1\nrounds = [10, 60]\n[cases.a]\ncall = "m:f"\n[cases.b]\n[cases.b.thresholds]\n'
    (tmp_path / "cases.toml").write_text(text + "effect = 0.2\nmemory_effect = 0.3\n")
    suite = cases.load(tmp_path / "cases.toml")
    shared, own = (suite.thresholds_of(case) for case in suite.cases)
    assert suite.cases[0].kind == "call"
    assert shared.effects == {"time": 0.1, "call time": 0.1}
    assert own.effects == {"time": 0.2, "call time": 0.1, "peak memory": 0.3}
    limited = suite.limited(40)
    assert {limited.thresholds_of(case).rounds for case in limited.cases} == {(10, 40)}


@pytest.mark.parametrize(
    ("device", "exact", "some"),
    [
        *(("cpu", None, True), ("cpu", ("recompiles",), True), ("cpu", ("peak bytes",), False), ("cpu", (), False)),
        *(("cuda", ("peak bytes",), True), ("cuda", (), False)),
    ],
)
def test_which_calls_have_exact_numbers(device, exact, some):
    assert Case("a", kind="call", call="m:f", device=device, exact=exact).has_exact_numbers == some


@pytest.mark.parametrize(
    ("case", "ran", "found"),
    [
        (Case("a", kind="scan"), ["cpp"], None),
        (Case("a", device="cuda"), ["triton"], None),
        (Case("a", kind="scan"), ["chunked"], "scan: chunked ran, cpp is expected"),
        (Case("a", device="cuda"), ["chunked", "triton"], "scan: chunked and triton ran, triton is expected"),
        (Case("a", kind="scan", scan="chunked"), ["chunked"], None),
        (Case("a"), [], "scan: no operator of the scan was seen, as where Inductor took it apart, cpp is expected"),
        (Case("a"), None, None),
        (Case("a", kind="call", call="m:f"), ["chunked"], None),
        (Case("a", kind="call", call="m:f", scan="cpp"), [], "scan: no operator of the scan was seen"),
        (Case("a", kind=cases.RECORDED), [], None),
    ],
)
def test_another_implementation_than_the_case_names_is_told(case, ran, found):
    said = unexpected(case, Facts(exact={}, implementations=ran, warnings=["UserWarning: no compiler"]))
    assert said is None if found is None else said.startswith(found) and "(UserWarning: no compiler)" in said


def test_what_this_torch_does_not_tell_is_said(monkeypatch):
    """Also where so much was compiled that the first compilations are forgotten."""
    from torch._dynamo import utils

    case = Case("a", kind="call", call="m:f", exact=("recompiles", "launches"), compile=True)

    def told():
        built = Built(lambda: None, {}, facts.compilations)
        found, _ = main.prepared(built, case=case.as_dict(), timed=False, slowdown=0.0, paths=[])
        return found["exact"].keys(), found["warnings"]

    full = [SimpleNamespace(compile_id="0/0")] * utils._compilation_metrics.maxlen
    monkeypatch.setattr(utils, "get_compilation_metrics", lambda: full)
    assert told() == ({"launches"}, ["recompiles: not known here"])
    monkeypatch.delattr(utils, "get_compilation_metrics")
    assert told() == (set(), ["recompiles: not known here", "launches: not known here"])


@pytest.mark.parametrize(
    ("names", "hidden", "ran"),
    [
        (["aten::mul"], False, []),
        (["aten::mul"], True, None),
        (["mvc::selective_scan", "mvc::selective_scan_cpu"], False, ["cpp"]),
        (["mvc::selective_scan_backward"], False, None),
        (["mvc::selective_scan_chunked_backward", "mvc::linear_recurrence_cpu"], True, ["chunked", "cpp"]),
        (["mvc::selective_scan_triton_training", "mvc::selective_scan_triton_gradients"], False, ["triton"]),
        (["triton_poi_fused_mul_0", "forward_kernel_0"], True, ["triton"]),
        (["triton_poi_fused_cumsum_scan_kernel_0"], True, None),
    ],
)
def test_what_ran_is_told_by_operators_and_by_kernels_that_have_none(monkeypatch, names, hidden, ran):
    events = [SimpleNamespace(name=name) for name in names]
    profile = contextlib.nullcontext(SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(torch.profiler, "profile", lambda **_: profile)
    assert facts.implementations(lambda: None, hidden=hidden) == ran


def test_kernels_without_an_operator_are_those_that_profiles_take_for_the_scans():
    from mvc.measure.families import family

    folders = {
        name: path.parent.name
        for path in ROOT.glob("kernels/*/triton_*.py")
        for name in re.findall(r"^def (\w+_kernel)\(", path.read_text(), re.MULTILINE)
    }
    others = {"linear": "matrix product", "convolution": "convolution", "attention": "attention"}
    assert {name: family(f"{name}_0") for name in folders} == {
        name: others.get(folder, "scan") for name, folder in folders.items()
    }
    scans = {name for name, folder in folders.items() if folder not in others}
    assert {name for name in folders if facts.KERNEL.fullmatch(f"{name}_0")} == scans - {"step_kernel"}


@pytest.mark.versions
@pytest.mark.parametrize(("impl", "name"), [("chunked", "chunked"), (None, "cpp"), ("reference", None)])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_what_ran_is_seen_in_eager_calls(impl, name, training):
    u = torch.rand(1, 5, 4, requires_grad=training)
    A, B = -torch.rand(4, 2), torch.rand(1, 5, 2)

    def run():
        y = mvc.selective_scan(u, u, A, B, B, impl=impl)
        return torch.autograd.grad(y.sum(), u) if training else y

    run()
    assert facts.implementations(run, hidden=False) == ([name] if name else [])


def test_names_of_implementations_are_those_of_the_kernels():
    from mvc.kernels.implementations import TABLE, fastest

    assert {*cases.SCANS} == TABLE.keys() - {"reference"}
    assert {each.suffix: name for name, each in TABLE.items() if name != "reference"} == facts.IMPLEMENTATIONS
    assert list(TABLE)[-1] == cases.FASTEST["cuda"]
    assert fastest(torch.device("cpu"), torch.float32) == cases.FASTEST["cpu"]
