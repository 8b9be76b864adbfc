"""What random programs with recurrences are made of: spellings, as source text with names in braces."""

from __future__ import annotations

from collections.abc import Callable, Mapping

PROGRAM = """\
# {title}
import torch
from torch._higher_order_ops.associative_scan import associative_scan
from torch._higher_order_ops.scan import scan
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

T = {length}
dtype = torch.{dtype}


def random(*shape, grad=False, inside=False):
    whole = dtype == torch.int64
    tensor = torch.randint(1, 4, shape) if whole else torch.rand(shape, dtype=dtype).requires_grad_(grad)
    return tensor * 1 if inside else tensor  # a leaf that requires gradients cannot be written to


def combine(left, right):
    return left[0] * right[0], right[0] * left[1] + right[1]


def step(h, pieces):
    h = pieces[0] * h + pieces[1]
    return h, h.clone()


@torch.no_grad()
def magnitude(v):
    return v.abs()


def pack(v):
    return v * 2


def unpack(v):
    return v / 2


def attempt(view):
    try:
        return view()
    except RuntimeError:
        return False


{functions}def inputs(seed):
    torch.manual_seed(seed)
    {creations}
    return [{arguments}]


{decorator}def program({arguments}):
{body}


def caller(run, *inputs):
    results = run(*inputs)
{afterwards}    return results
"""

# Of each list the first entry is the plainest.
ACCESS = {
    "index": "{s}[{colons}{t}]",
    "ellipsis": "{s}[..., {t}{trailing}]",
    "select": "{s}.select({dim}, {t})",
    "torch.select": "torch.select({s}, {dim}, {t})",
    "unbind": "{s}.unbind({dim})[{t}]",
    "narrow": "{s}.narrow({dim}, {t}, 1).squeeze({dim})",
    "split": "{s}.split(1, {dim})[{t}].squeeze({dim})",
    "movedim": "{s}.movedim({dim}, 0)[{t}]",
    "uneven split": "torch.cat([{s}, {s}], {dim}).split([T] + [1] * T, {dim})[1 + {t}].squeeze({dim})",
    "chunk": "{s}.chunk(T, {dim})[{t}].squeeze({dim})",
}
UPDATES = (
    "{a} * {h} + {b}", "{h} * {a} + {b}", "{b} + {a} * {h}", "torch.addcmul({b}, {a}, {h})", "{h}.mul({a}).add({b})",
    "torch.lerp({b}, {h}, {a})", "{a} * {h} - {b}", "0.5 * {h} + {b}", "({a} * {h}).add_({b})", "{h} * {a}",
    "torch.exp(-{a}) * {h} + {b}", "torch.sigmoid({a}) * {h} + {b} * {c}", "{a} * ({h} + {b})", "{h} + {b}",
    "(1 - {a}) * {h} + {a} * {b}", "torch.add(torch.mul({h}, {a}), {b})", "{h} - {a} * ({h} - {b})",
    "({a} * {h} + {b}).to(torch.int64).to(dtype)", "torch.div({a} * {h} + {b}, 2, rounding_mode='floor')",
    "{a} * {h}.detach() + {b}", "torch.tanh({a} * {h} + {b})", "{h}.mul_({a}).add_({b})",
    "torch.where({b} > 0.4, {a} * {h} + {b}, {h})", "torch.where({b} > 0.4, {h}, 0.0) * {a} + {b}",
    "({a} * {h}).masked_fill({b} > 0.4, 0.5) + {b}", "{h} * ~({b} > 0.4) + {a}",
    "torch.where({b} > 0.4, {h}, 0.3 * {h}) + {b}", "torch.einsum('...n,...n->...n', {a}, {h}) + {b}",
    "({a}.unsqueeze(0) * {h}.unsqueeze(0) + {b}).squeeze(0)", "{h}.copy_({a} * {h} + {b})",
    "F.elu({a}) * {h} + {b}", "({a} * {h}).transpose(0, -1) + {b}", "{h} / (1 + {a}) + {b}",
)  # fmt: skip
READ_OUTS: Mapping[str, Callable[[list], list]] = {
    "{h}": lambda s: s,
    "{h} * {c}": lambda s: s,
    "({h} * {c}).sum(-1)": lambda s: s[:-1],
    "{h}.sum(-1)": lambda s: s[:-1],
    "{h}.mean(-1, keepdim=True)": lambda s: [*s[:-1], 1],
    "torch.einsum('...n,...n->...', {h}, {c})": lambda s: s[:-1],
    "torch.relu({h} - 0.5)": lambda s: s,
    "{h}.transpose(0, -1)": lambda s: [s[-1], *s[1:-1], s[0]] if len(s) > 1 else s,
    "{h}[..., :1]": lambda s: [*s[:-1], 1],
    "{h}[..., 0]": lambda s: s[:-1],
    "{h}.unsqueeze(0)": lambda s: [1, *s],
    "{h} @ w": lambda s: s,
    "F.layer_norm({h}, {h}.shape[-1:], eps=0.1)": lambda s: s,  # else gradients cancel over two elements
    "{h}.softmax(-1)": lambda s: s,
    "torch.cat([{h}, {c}], -1)": lambda s: [*s[:-1], 2 * s[-1]],
    "{h}.clone()": lambda s: s,
    "{h}.float()": lambda s: s,
    "{h}.expand(2, *{h}.shape)": lambda s: [2, *s],
    "{h}.detach()": lambda s: s,
}
SELECTIVE_READ_OUTS = (
    "torch.einsum('bdn,bn->bd', {h}, {C})", "({h} @ {C}.unsqueeze(-1)).squeeze(-1)", "({h} * {C}[:, None]).sum(-1)",
    "torch.einsum('bn,bdn->bd', {C}, {h})",
)  # fmt: skip
CONTEXTS = (
    "torch.no_grad()", "torch.enable_grad()", "torch.set_grad_enabled(False)", "torch.autocast('cpu', torch.bfloat16)",
    "torch.autocast('cpu', enabled=False)", "torch.inference_mode()", "torch.autograd.graph.save_on_cpu()",
    "torch.autograd.graph.saved_tensors_hooks(pack, unpack)",
    "torch.autograd.graph.disable_saved_tensors_hooks('none here')",
    "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)",
)  # fmt: skip
PREPARATIONS = (
    "{b} = torch.sigmoid({b}) * {b}", "{b} = {b} @ w", "{a} = {a}.abs()", "{b} = {b} + 0.25 * {h}", "{h} = 0.5 * {h}",
    "{b} = buffer.type_as({b}) * {b}", "{b} = {b}[None].moveaxis(0, 1).flatten(0, 1) + buffer.expand_as({b})",
    "{b} = {b}.narrow(-1, -1, 1).expand_as({b}) + {b}.clip(max=0.5).sum(axis=-1, keepdims=True)",
)  # fmt: skip
STEP_EXTRAS = (
    "{b} = magnitude({b}) * {b}", "{b} = F.dropout({b}, 0.25)", "{b} = {b} + torch.rand_like({b})",
    "{b} = {b} * torch.bernoulli({a})", "{b} = {b}.detach()", "buffer.add_({b})", "{b}.mul_(0.5)", "buffer.copy_({h})",
    "{a}[..., 0] = 0.5", "buffer.mul_(0.5)", "torch._dynamo.graph_break()", "{h} = {h}.detach()", "{b} = {b}.sin()",
    "F.hardtanh({b}, -0.5, 0.5, True)", "torch.mul({b}, 0.5, out=buffer)",
    "torch.batch_norm(w, None, None, buffer.view(-1)[:w.shape[1]], w.detach()[0].clone(), True, 0.1, 1e-5, False)",
)  # fmt: skip
DECORATORS = ("", "@torch.compiler.nested_compile_region", "@torch.no_grad()", "@torch.inference_mode()")
BEHIND = (
    "{y} = {y} * 2", "{y} = {y}.sin()", "{y} = {y}.view(-1)", "{y} = {y}.transpose(0, -1)", "{y} = {y}[..., 1:]",
    "{y} = {y}.flatten()", "{y} = ({y} * 1.0).as_strided((2, 2), (1, 2), 1)", "{y} = {y}.as_strided((2, 2), (2, 1), 1)",
    "torch._dynamo.graph_break()", "{y} = {y} + 1 if {y}.is_contiguous() else {y}", "{y} = {y} * {y}.stride(0)",
    "y = y + y.storage_offset()", "{y} = {y}.softmax(-1)", "{y} = {y}.cumsum(0)", "{y} = {y}.contiguous()",
    "{y} = torch.relu_({y})", "{y} = {y}.unbind(0)[-1]", "{y} = {y}.reshape(-1)", "{y} = {y}.detach()",
    "{y} = {y}.flip(0)", "{y} = {y}.movedim(0, -1).unflatten(-1, (-1, 1))", "{y}[0] = 0", "{y}.mul_(2)",
    "{y} = {y} + {y}.mT", "{y} = ({y} * 1).view({y}.shape[0], -1)", "{y} = F.dropout({y}, 0.5)",
    "{y} = {y} * torch.rand_like({y})", "{y}.select(0, 0).zero_()",
    "{y} = torch.add({y}, 1, out=torch.zeros_like({y}))",
)  # fmt: skip
WRITES = (
    "h.zero_()", "h.mul_(0.5)", "kept[1].add_(1)", "kept[-1][..., 0] = 2", "buffer.copy_(h)", "buffer.add_(kept[1])",
    "torch.add(h, 1, out=buffer)", "a.add_(1)", "b.select({dim}, 0).mul_(2)", "kept[0] *= 3",
)  # fmt: skip
ESCAPES = (
    "h", "kept[1]", "h[..., 0]", "h.flatten()", "kept", "{'state': h, 'first': kept[0]}", "kept[1] * 2", "h.clone()",
    "h.mT", "kept[1].view(-1)", "torch.stack(kept)", "h.sum()", "kept[-1]", "h.detach()", "torch.cat(kept, -1)", "a",
    "b[..., 0]",
)  # fmt: skip
AFTERWARDS = (
    "results[0].zero_()", "results[1].zero_()", "results[-1].mul_(0)", "results[1].detach().mul_(0.5)",
    "results.append(attempt(lambda: results[0].view(-1)))", "results.append(attempt(lambda: results[1].view(-1)))",
    "results.append(results[0].as_strided((2,), (1,), 1))", "results.append(results[0].detach()[..., 0])",
    "results = run(*inputs)", "results += run(*inputs)", "results.append(results[1].is_contiguous())",
)  # fmt: skip
INITIALS = (
    "h = {like}.new_zeros({state})", "", "h = torch.zeros({state}, dtype=dtype)", "h = 0", "h = h * 2",
)  # fmt: skip
ORDERS = ("range(T)", "reversed(range(T))", "range(T - 1, -1, -1)", "range(1, T - 1)", "range(0, T, 2)")
# What surrounds a loop in a function of its own: the function as it is, or inside a higher-order operator.
REGIONS = (
    "recurrence({names})",
    "checkpoint(recurrence, {names}, use_reentrant=False)",
    "torch.cond({first}.sum() > 0, recurrence, recurrence, ({names},))",
)
SECOND_UPDATES = ("0.5 * g + h", "{a} * g + h", "{a} * g + {b} * h", "h * g + {b}")
# What stands ahead of the loop, in it and behind it.
COLLECTORS = {
    "stack": ("", "out.append({output})", "y = torch.stack(out, {place})"),
    "cat": ("", "out.append(({output}).unsqueeze({place}))", "y = torch.cat(out, {place})"),
    "empty": ("y = torch.empty({full}, dtype={dtype})", "y[{colons}{step}] = {output}", ""),
    "new_zeros": ("y = w.new_zeros({full}, dtype={dtype})", "y[{colons}{step}] = {output}", ""),
    "copy_": ("y = torch.zeros({full}, dtype={dtype})", "y.select({place}, {step}).copy_({output})", ""),
    "tuple": ("", "out.append({output})", "y = torch.stack(tuple(out))"),
    "reversed list": ("", "out.append({output})", "y = torch.stack(out[::-1], {place})"),
    "insert": ("", "out.insert(0, {output})", "y = torch.stack(out, {place})"),
    "out": ("", "out.append({output})", "y = torch.stack(out, {place}, out=torch.empty(0, dtype={dtype}))"),
    "one twice": ("", "out.append({output})", "y = torch.stack([*out, out[0]], {place})"),
    "axis": ("", "out.append({output})", "y = torch.stack(out, axis={place})"),
    "full": ("y = torch.full({full}, 2.0, dtype={dtype})", "y[{colons}{step}] = {output}", ""),
    "into a tensor": (
        "y = torch.zeros({full}, dtype={dtype})",
        "out.append({output})",
        "torch.stack(out, {place}, out=y)",
    ),
    "none": ("", "pass", "y = h * 1"),
    "wide cat": ("", "out.append({output})", "y = torch.cat(out)"),
}
STATES_READ_OUTS = {
    False: ("states", "states.sum(-1)", "states * 2", "states.movedim(0, -1)", "torch.relu(states)"),
    True: ("torch.einsum('bldn,bln->bld', states, C)", "(states @ C.unsqueeze(-1)).squeeze(-1)", "states * 2"),
}
GATES = ("y = y + u * 0.5", "y = y * F.silu(u)", "y += u * 0.5", "y *= F.silu(u)")
