"""The loads of several stages as one table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moesim.serving.requests.table import FloatArray, IntArray, Requests, Sessions

_Hashes = list[tuple[int, ...]]


def join(parts: Sequence[Requests]) -> Requests:
    """The rows of all parts, one after another, with their phases. Loads of one source share their texts, others share
    none."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    phases = [
        replace(phase, first=phase.first + end - len(part), last=phase.last + end - len(part))
        for part, end in zip(parts, ends, strict=True)
        for phase in part.phases
    ]
    common = math.gcd(*(part.block_tokens for part in parts))
    names = _Names()
    sharing = any(part.blocks is not None for part in parts)
    return Requests(
        arrival=np.concatenate([part.arrival for part in parts]),
        input_tokens=np.concatenate([part.input_tokens for part in parts]),
        output_tokens=np.concatenate([part.output_tokens for part in parts]),
        blocks=[row for part in parts for row in names.blocks(part, part.blocks, common)] if sharing else None,
        block_tokens=common,
        source=", ".join(dict.fromkeys(part.source for part in parts)),
        rows=np.concatenate([part.rows for part in parts]),
        identifiers=None,
        dropped_rows=tuple(row for part in parts for row in part.dropped_rows),
        clipped_rows=tuple(row for part in parts for row in part.clipped_rows),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        classes=_classes(parts),
        sessions=_sessions(parts, names, common),
        phases=tuple(phases),
        parts=tuple(parts),
    )


class _Names:
    """Numbers for the hashes of several sources."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, int, int], int] = {}
        self._known: dict[tuple[str, int], tuple[int, ...]] = {}

    def blocks(self, part: Requests, hashes: _Hashes | None, block_tokens: int) -> _Hashes:
        """Hashes for blocks of `block_tokens` tokens. One for n times as many becomes n: it stands for all content up
        to its end, and so for that of the blocks within."""
        if hashes is None:
            return [()] * len(part)
        finer = part.block_tokens // block_tokens
        return [self._renamed(part.source, row, finer) for row in hashes]

    def _renamed(self, source: str, hashes: tuple[int, ...], finer: int) -> tuple[int, ...]:
        key = (source, id(hashes))
        if key not in self._known:
            numbers = self._numbers
            self._known[key] = tuple(
                numbers.setdefault((source, number, piece), len(numbers)) for number in hashes for piece in range(finer)
            )
        return self._known[key]


def _classes(parts: Sequence[Requests]) -> NDArray[np.str_] | None:
    if all(part.classes is None for part in parts):
        return None
    return np.concatenate([np.full(len(part), "") if part.classes is None else part.classes for part in parts])


def _sessions(parts: Sequence[Requests], names: _Names, block_tokens: int) -> Sessions | None:
    """Requests that stand alone are conversations of one turn."""
    if all(part.sessions is None for part in parts):
        return None
    session: list[IntArray] = []
    turn: list[IntArray] = []
    think: list[FloatArray] = []
    left: _Hashes = []
    offset = 0
    for part in parts:
        own = part.sessions
        if own is None:
            zeros = np.zeros(len(part), dtype=np.int64)
            own = Sessions(np.arange(len(part)), zeros, zeros.astype(np.float64), [()] * len(part))
        session.append(own.session + offset)
        offset = int(session[-1][-1]) + 1
        turn.append(own.turn)
        think.append(own.think)
        left += names.blocks(part, own.left, block_tokens)
    return Sessions(np.concatenate(session), np.concatenate(turn), np.concatenate(think), left)
