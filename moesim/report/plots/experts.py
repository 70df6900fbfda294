"""Heat maps of experts: tokens per layer and expert, and which experts tokens choose together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.report.load import heat_map, layer_ticks, ratio_ticks
from moesim.report.style import COLUMN, blank

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


def expert_load(table: pd.DataFrame, width: float = COLUMN["single"]) -> Figure:
    """Tokens of each expert over the layer's mean; `table`: layer, expert, tokens, relative, experts side by side."""
    layers = np.unique(table["layer"])
    load = table["relative"].to_numpy(dtype=float).reshape(len(layers), -1)
    figure = blank(width, float(np.clip(0.05 * len(layers), 0.9, 2.6)) + 0.55)
    axes = figure.add_subplot()
    image = heat_map(axes, load)
    layer_ticks(axes, layers)
    axes.set(xlabel="expert", ylabel="layer")
    ratio_ticks(figure.colorbar(image, ax=axes, pad=0.02, label="tokens over the layer's mean"), image)
    return figure


def co_activation(table: pd.DataFrame, width: float = COLUMN["single"]) -> Figure:
    """How much more often two experts are chosen for one token than if choices were independent.

    `table`: layer, first, second, together (tokens that choose both), lift. Experts are in an order that puts
    those side by side that are chosen together (average linkage).
    """
    experts = int(table[["first", "second"]].to_numpy().max()) + 1
    lift = np.full((experts, experts), np.nan)
    first, second = table["first"].to_numpy(), table["second"].to_numpy()
    lift[first, second] = lift[second, first] = table["lift"].to_numpy(dtype=float)
    order = _similar(np.nan_to_num(lift))
    side = min(width, COLUMN["single"])
    figure = blank(width, 0.85 * side + 0.2)
    axes = figure.add_subplot()
    image = heat_map(axes, lift[np.ix_(order, order)])
    axes.set_aspect("equal")
    axes.set(xlabel=f"expert of layer {table['layer'].iloc[0]}, similar ones together", ylabel="expert")
    axes.set(xticks=[], yticks=[])
    bar = figure.colorbar(image, ax=axes, pad=0.02, label="chosen together, over independent choice")
    ratio_ticks(bar, image)
    return figure


def _similar(lift: Array) -> Any:
    from scipy.cluster.hierarchy import leaves_list, linkage

    apart = 1 / (1 + lift[np.triu_indices(len(lift), 1)])
    return leaves_list(linkage(apart, method="average")) if len(lift) > 2 else np.arange(len(lift))


def together(ids: NDArray[np.int64], experts: int, layer: int) -> pd.DataFrame:
    """The table of `co_activation` from the choices of tokens in one layer, [tokens, top_k]; pairs never met have lift
    0. Lift of a pair: P(both) / (P(first) P(second)), over what k equal experts out of n drawn without replacement have
    of it, (1 - 1 / k) / (1 - 1 / n): so that 1 is no preference."""
    import pandas as pd

    tokens, top_k = ids.shape
    chosen = np.zeros((tokens, experts), dtype=np.float32)
    chosen[np.arange(tokens)[:, None], ids] = 1.0
    both = chosen.T @ chosen
    share = np.diag(both) / tokens
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = both / tokens / (share[:, None] * share[None, :]) * (1 - 1 / experts) / (1 - 1 / max(top_k, 2))
    first, second = np.triu_indices(experts, 1)
    return pd.DataFrame(
        {"layer": layer, "first": first, "second": second, "together": both[first, second].astype(np.int64),
         "lift": np.nan_to_num(lift[first, second])}
    )  # fmt: skip
