"""Registers every op in `torch.ops.mvc`; those of one backend alone are registered when they are first used."""

from __future__ import annotations

if __name__ != "mvc.kernels.ops":
    raise ImportError(f"import this module as mvc.kernels.ops, not as {__name__}: it would register its ops twice")

import mvc.kernels.linear.cublas_ops
import mvc.kernels.recurrence.ops
import mvc.kernels.scan.ops
import mvc.kernels.state_update.api  # noqa: F401
