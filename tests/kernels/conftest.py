"""What the tests of several ops share."""

from __future__ import annotations

import pytest
from recurrence_cases import FAMILIES
from scan_cases import require_cpp


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """The name of a recurrence's op that this machine's CPU can run."""
    require_cpp(request.param == "linear_recurrence_cpu")
    return request.param
