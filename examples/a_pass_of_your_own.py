"""A pass of your own: x · sigmoid(x) becomes one call of SiLU. Run: python examples/a_pass_of_your_own.py"""

import dataclasses

import torch
from torch import fx
from torch.nn import functional as F

from mvc.passes.base import NearMiss, Outcome, Pass
from mvc.passes.graph.fx_utils import insert
from mvc.passes.graph.surroundings import Surroundings
from mvc.passes.graph.torch_ops import call


@dataclasses.dataclass(frozen=True)
class FuseSilu(Pass):
    """Before: `mul(x, sigmoid(x))`. After: `silu(x)`."""

    name = "fuse_silu"

    def __call__(self, graph: fx.Graph) -> Outcome:
        outcome, surroundings = Outcome(), Surroundings(graph)
        for node in list(graph.nodes):
            product = call(node)  # one name for x * y, torch.mul(x, y) and x.mul(y)
            if product is None or product.name != "mul":
                continue
            for x, gate in (node.args, node.args[::-1]):
                sigmoid = call(gate) if isinstance(gate, fx.Node) else None
                if sigmoid is None or sigmoid.name != "sigmoid":
                    continue
                reason = None if sigmoid.args["input"] is x else "the sigmoid is of another tensor"
                reason = reason or surroundings.contexts.obstacle([gate, node])  # no_grad around one of them alone
                if reason is not None:
                    outcome.near_misses.append(NearMiss.at(node, reason))
                    continue
                with surroundings.at(node):
                    surroundings.replace({node: insert(graph, F.silu, x)})  # where strides are seen, they stay
                outcome.matches += 1
                break
        return outcome  # the pipeline removes the product and the sigmoid, which nobody uses now


def model(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x) + y * x.sigmoid()


if __name__ == "__main__":
    import mvc

    x, y = torch.randn(2, 1000)
    print(mvc.explain(model, x, y, options={"passes": [FuseSilu()]}))
    compiled = torch.compile(model, backend="mvc", options={"passes": ["lower_scan", FuseSilu()]})
    torch.testing.assert_close(compiled(x, y), model(x, y))
