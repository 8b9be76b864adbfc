"""Changes as text for people."""

from __future__ import annotations


def signed(ratio: float) -> str:
    """A change with its sign: "+6.1%"."""
    return f"{ratio - 1:+.1%}"


def with_interval(ratio: float, low: float, high: float) -> str:
    """A change with its interval: "+30.1% (+28.0% to +31.9%)"."""
    return f"{signed(ratio)} ({signed(low)} to {signed(high)})"
