"""Optional compilation of order-fixed loops. The same functions run as plain Python; the results are the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

#: Whether loops are compiled: numba is installed and MOESIM_NUMBA=0 does not forbid it. Its import waits for first use.
HAVE_NUMBA = os.environ.get("MOESIM_NUMBA", "1") != "0" and find_spec("numba") is not None


@cache
def compiled(function: F) -> F:
    """The function compiled by numba, on first use. No fast-math: floating-point operations keep their order."""
    import numba

    try:
        return cast(F, numba.njit(cache=True)(function))
    except RuntimeError:  # nowhere to keep the compiled code
        return cast(F, numba.njit(function))
