"""Whether anybody answers at a scheduler's address, before an engine's own client tries for minutes."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from moesim.spec.errors import MoesimError

#: Seconds to wait for a connection, and for the engine's greeting.
CONNECT, GREET = 4.0, 5.0

Found = TypeVar("Found")


def check_address(engine: str, address: str | None) -> None:
    """Raises MoesimError where `address` ("tcp://host:8786", "host:6379") is none, or nobody listens there; also where
    the backend has no scheduler."""
    if address is None:
        return
    if engine == "local":
        raise MoesimError("--address is that of another machine's scheduler", fix="give --backend dask or ray as well")
    found = re.fullmatch(r"(?:\w+://)?\[?([\w.:-]+?)\]?:(\d+)", address)
    if found is None:
        raise MoesimError(f"{address!r} is no address of a {engine} scheduler", fix="write it like tcp://host:8786")
    try:
        socket.create_connection((found[1], int(found[2])), timeout=CONNECT).close()
    except (OSError, OverflowError) as error:
        raise nobody(engine, address, error.strerror if isinstance(error, OSError) else None) from None


def nobody(engine: str, address: str, why: str | None = None) -> MoesimError:
    reason = f" ({why})" if why else ""
    return MoesimError(f"no {engine} scheduler answers at {address}{reason}", fix="start it, or correct --address")


def within(seconds: float, call: Callable[[], Found]) -> Found:
    """What `call` returns or raises, or TimeoutError where that takes longer; it is then left to itself."""
    answers: SimpleQueue[tuple[bool, object]] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put((True, call()))
        except BaseException as error:
            answers.put((False, error))

    Thread(target=ask, daemon=True).start()
    try:
        fine, answer = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if not fine:
        assert isinstance(answer, BaseException)
        raise answer
    return answer  # type: ignore[return-value]
