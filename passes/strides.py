"""What follows a node whose strides a pass changes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import torch
from mvc.passes import torch_private
from mvc.passes.fx_utils import value, written_by
from mvc.passes.scan_safety import NEEDS_LAYOUT, NEW_LAYOUT
from mvc.passes.torch_ops import name_of
from torch import fx
from torch.fx.node import map_arg

SCANS = ("mvc.selective_scan", "mvc.linear_recurrence")  # they read any strides, and give strides of their own


def ends_layout(node: fx.Node) -> bool:
    """Whether the call's result has the same strides whatever those of its inputs are."""
    return name_of(node) in NEW_LAYOUT or str(getattr(node.target, "overloadpacket", "")) in SCANS


def strides_matter(node: fx.Node) -> bool:
    """Whether what follows the node may fail, differ or be returned in another memory order where its strides change.

    A write counts too: it may reach the node through a `reshape` that was a view and would be a copy.
    """
    seen: set[fx.Node] = set()
    pending = list(node.users)
    while pending:
        user = pending.pop()
        if user in seen:
            continue
        name = name_of(user)
        if written_by(user) or (not ends_layout(user) and (name is None or name in NEEDS_LAYOUT)):
            return True
        seen.add(user)
        pending += [] if ends_layout(user) else user.users
    return False


def update_strides(users: Iterable[fx.Node]) -> None:
    """Compute anew the example values of the users of something that has other strides now, and of what follows them,
    where these do not matter."""
    pending = list(users)
    heapq.heapify(pending)
    while pending:
        user = heapq.heappop(pending)
        if ends_layout(user) or (pending and pending[0] is user):
            continue
        args, kwargs = map_arg((user.args, user.kwargs), value)
        with torch_private.fake_mode(map(value, user.all_input_nodes)):
            function = getattr(torch.Tensor, user.target) if user.op == "call_method" else user.target
            user.meta["example_value"] = function(*args, **kwargs)
        for each in user.users:
            heapq.heappush(pending, each)
