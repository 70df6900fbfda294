"""Tokens to experts: count sampling for runs, trace replay, an offline per-token generator, statistics."""

from __future__ import annotations

from moesim.routing.base import RoutingSource, TokenSpans

__all__ = ["RoutingSource", "TokenSpans"]
