"""All entries, family by family."""

from __future__ import annotations

import importlib.util

from bench.zoo import attention, filters, gated, mamba, packages, state_space
from bench.zoo.entry import Entry


def of(module) -> list[Entry]:
    return [each for each in vars(module).values() if isinstance(each, Entry)]


ENTRIES = {
    each.name: each
    for each in (*of(mamba), *of(state_space), *of(attention), *of(gated), *of(filters), *packages.ENTRIES)
}


def is_installed(entry: Entry) -> bool:
    return not entry.needs or importlib.util.find_spec(entry.needs) is not None
