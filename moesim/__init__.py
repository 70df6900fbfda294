"""moesim: a discrete-event simulator of Mixture-of-Experts models on heterogeneous hardware.

    import moesim

    experiment = moesim.load("quickstart", set=["requests.count=50"])
    experiment.run().requests                            # a DataFrame
    experiment.whatif(["machine=dgx-h200"]).metrics      # a DataFrame

Importing it is quick: what a function needs is imported when it is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moesim.explore.api import explain, load, run, whatif
    from moesim.explore.configure import configure
    from moesim.explore.python import search, sweep

__version__ = "0.1.0"

__all__ = ["configure", "explain", "load", "run", "search", "sweep", "whatif"]

#: Where the functions are.
_HOMES = {
    "configure": "moesim.explore.configure",
    "search": "moesim.explore.python",
    "sweep": "moesim.explore.python",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'moesim' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "moesim.explore.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
