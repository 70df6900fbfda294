"""Requests that exceed the model's context."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moesim.serving.requests.table import Requests
from moesim.spec.errors import MoesimError
from moesim.spec.serving import TooLong


def fit_context(requests: Requests, context: int, policy: TooLong) -> Requests:
    """The requests, input and output within `context` tokens.

    Args:
        requests: as they came.
        context: the model's maximum sequence length, at least 2.
        policy: `error` refuses the first that exceeds it, `drop` leaves such requests out, `clip` cuts their output
            (to 1 token at least) and then their input.

    Raises:
        MoesimError: a request exceeds the context, or none is left.
    """
    too_long = requests.input_tokens + requests.output_tokens > context
    if not too_long.any():
        return requests
    if policy == "error":
        first = int(np.argmax(too_long))
        tokens = f"{requests.input_tokens[first]} input and {requests.output_tokens[first]} output tokens"
        what = f"{tokens} exceed the model's context of {context}"
        raise requests.error(first, what, "set requests.too_long to drop or clip, or take a model with more context")
    rows = tuple(requests.rows[too_long].tolist())
    if policy == "clip":
        return _clip(requests, context, rows)
    if too_long.all():
        raise MoesimError(
            f"{requests.source}: all {len(requests)} requests exceed the model's context of {context}",
            key="requests",
            fix="set requests.too_long to clip, or take a model with more context",
        )
    return replace(requests.select(np.flatnonzero(~too_long)), dropped_rows=rows)


def _clip(requests: Requests, context: int, rows: tuple[int, ...]) -> Requests:
    output = np.minimum(requests.output_tokens, np.maximum(context - requests.input_tokens, 1))
    inputs = np.minimum(requests.input_tokens, context - output)
    blocks = requests.blocks
    if blocks is not None:
        blocks = [hashes[: tokens // requests.block_tokens] for hashes, tokens in zip(blocks, inputs, strict=True)]
    sessions = requests.sessions
    if sessions is not None:
        held = (inputs + output - 1) // requests.block_tokens
        left = [hashes[:count] for hashes, count in zip(sessions.left, held.tolist(), strict=True)]
        sessions = replace(sessions, left=left)
    cut = replace(requests, input_tokens=inputs, output_tokens=output, blocks=blocks, sessions=sessions)
    return replace(cut, clipped_rows=rows)
