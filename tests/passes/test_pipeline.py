"""What runs the passes: order, bookkeeping, restoring, regions, clean-up, dumps."""

import dataclasses
import gc
import re
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from toy_passes import Break, Replace, capture

from mvc.passes import pipeline
from mvc.passes.base import Outcome, Pass
from mvc.passes.dump import GraphDump
from mvc.passes.graph.fx_utils import op_counts, value


def wave(x):
    return x.sin() * torch.sin(x) + x.exp()


def test_record_counts_matches_and_near_misses():
    module, _ = capture(wave, torch.ones(3))
    (record,) = pipeline.run([Replace()], module)
    assert (record.name, record.region, record.matches, record.error) == ("replace", "", 1, None)
    assert record.nodes_before == record.nodes_after == len(module.graph.nodes)
    (miss,) = record.near_misses
    assert miss.reason == "an exponential"
    assert "test_pipeline.py" in miss.source
    assert "return x.sin()" in miss.source


def test_failing_pass_is_recorded_and_its_graph_restored():
    module, _ = capture(wave, torch.ones(3))
    failed, replaced = pipeline.run([Break(), Replace()], module)
    assert failed.error == "RuntimeError: half-way"
    assert (failed.matches, replaced.matches) == (0, 1)
    x = torch.ones(3)
    torch.testing.assert_close(module(x)[0], x.sin() * x.cos() + x.exp())


def test_graph_is_restored_to_what_the_last_good_pass_left():
    module, _ = capture(wave, torch.ones(3))
    pipeline.run([Replace(), Break()], module)
    assert op_counts(module.graph)["cos"] == 1
    assert op_counts(module.graph)["tan"] == 0


@dataclasses.dataclass(frozen=True)
class Misfit(Pass):
    """Puts a call in the place of a sine that fails, or that gives another kind of tensor than it says."""

    name = "misfit"
    target: Callable = torch.matmul

    def __call__(self, graph: fx.Graph) -> Outcome:
        (sine,) = graph.find_nodes(op="call_function", target=torch.sin)
        with graph.inserting_before(sine):
            node = graph.call_function(self.target, (sine.args[0], sine.args[0]))
        node.meta["example_value"] = value(sine)
        sine.replace_all_uses_with(node)
        return Outcome(matches=1)


@pytest.mark.parametrize(
    ("target", "error"),
    [(lambda x, y: torch.ops.mvc.linear_recurrence(x, y, None, 5, False), "5"), (torch.eq, "TypeError: .*torch.bool")],
    ids=["an op that refuses", "another dtype"],
)
def test_what_a_pass_inserted_is_run_on_example_values(target, error):
    module, _ = capture(wave, torch.ones(3))
    (record,) = pipeline.run([Misfit(target)], module)
    assert re.search(error, record.error), record.error
    assert op_counts(module.graph)["sin"] == 2, "the graph is as it was"


@dataclasses.dataclass(frozen=True)
class Collects(Pass):
    """Notes whether Python collects garbage meanwhile, and fails."""

    name = "collects"
    seen: list[bool] = dataclasses.field(default_factory=list)

    def __call__(self, graph: fx.Graph) -> Outcome:
        self.seen.append(gc.isenabled())
        raise RuntimeError


def test_no_garbage_is_collected_while_a_pass_runs():
    module, _ = capture(wave, torch.ones(3))
    collects = Collects()
    pipeline.run([collects], module)
    assert (collects.seen, gc.isenabled()) == ([False], True)


def test_strict_raises():
    module, _ = capture(wave, torch.ones(3))
    with pytest.raises(RuntimeError, match="half-way"):
        pipeline.run([Break()], module, strict=True)


def test_passes_reach_into_compile_regions():
    @torch.compiler.nested_compile_region
    def block(x):
        return torch.sin(x) + 1

    module, _ = capture(lambda x: torch.sin(block(block(x))), torch.ones(3))
    outer, inner = pipeline.run([Replace()], module)
    assert (inner.region, inner.matches) == ("subgraph_0", 1), "one body for both calls"
    assert (outer.region, outer.matches) == ("", 1)
    x = torch.ones(3)
    torch.testing.assert_close(module(x)[0], ((x.cos() + 1).cos() + 1).cos())


def test_clean_up_keeps_what_has_effects():
    def effects(x):
        y = x.clone()
        y.add_(1)
        y[0] = 5
        nn.functional.relu(y, inplace=True)
        torch.mul(y, 2, out=y)
        unused = x.exp() * 2  # noqa: F841
        return y

    module, _ = capture(effects, torch.zeros(3))
    pipeline.remove_dead_code(module.graph)
    module.recompile()
    assert op_counts(module.graph)["exp"] == 0
    assert module(torch.zeros(3))[0].tolist() == [10, 2, 2]


def test_digest_changes_with_options_and_order():
    digests = {pipeline.digest(p) for p in ([], [Replace()], [Replace(new="tan")], [Replace(), Break()])}
    assert len(digests) == 4
    assert pipeline.digest([Replace()]) == pipeline.digest([Replace()])


def test_uuid_is_over_the_sources(tmp_path, monkeypatch):
    """A changed source file, or none to be found, gives another uuid."""
    import importlib.util

    path = tmp_path / "own_pass.py"
    uuids = []
    for number in (1, 2, 2):
        path.write_text(f"from toy_passes import Replace\n\n\nclass Own(Replace):\n    NUMBER = {number}\n")
        spec = importlib.util.spec_from_file_location("own_pass", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(__import__("sys").modules, "own_pass", module)
        spec.loader.exec_module(module)
        uuids.append(module.Own().uuid())
    assert uuids[0] != uuids[1] == uuids[2]
    homeless = type("Homeless", (Replace,), {"__module__": "nowhere"})
    assert homeless().uuid() != homeless().uuid()


def test_build_orders_and_leaves_out():
    names = list(pipeline.PASSES)
    built = [each.name for each in pipeline.build(names[::-1], [Replace()], frozen=True, inference=True)]
    lowering = names.index("lower_scan")
    assert built == [*names[:lowering], "replace", *names[lowering:]]
    plain = [name for name, each in pipeline.PASSES.items() if not (each.needs_frozen or each.inference_only)]
    assert [each.name for each in pipeline.build(names)] == plain
    assert pipeline.build(["lower_scan"], impl="chunked")[0].impl == "chunked"


@pytest.mark.parametrize("kernels", ["measured", "own", "library"])
def test_build_tells_what_runs_on_a_gpu(kernels):
    built = pipeline.build(list(pipeline.PASSES), kernels=kernels, inference=True)
    told = {each.name: each.kernels for each in built if hasattr(each, "kernels")}
    assert "fuse_linear" in told
    assert set(told.values()) == {kernels}


def test_dump_writes_both_sides_of_what_fired(tmp_path):
    for _ in range(2):
        module, _ = capture(wave, torch.ones(3))
        pipeline.run([Replace(old="tan"), Replace()], module, observers=[GraphDump(tmp_path)])
    names = [f"graph_{graph}/00_replace.{side}.py" for graph in (0, 1) for side in ("after", "before")]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.py")) == names
    assert "torch.sin" in (tmp_path / names[1]).read_text()
    assert "torch.cos" in (tmp_path / names[0]).read_text()
