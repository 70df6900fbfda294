"""What the replicas of a pool tell of the requests that they share with another pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from moesim.serving.replica import Replica
    from moesim.serving.sequences import RequestState


class Pool(Protocol):
    """A pool's ear. prefills: its replicas compute prompts, and pass them on."""

    @property
    def name(self) -> Literal["prefill", "decode"]: ...
    @property
    def prefills(self) -> bool: ...

    def admitted(self, replica: Replica, states: list[RequestState]) -> None:
        """These were given blocks now."""

    def prefilled(self, replica: Replica, state: RequestState, tokens: int, duration: int) -> None:
        """A prompt is complete, with a step of so many picoseconds and so many tokens of it."""
