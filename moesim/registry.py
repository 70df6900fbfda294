"""Policies by name: ours register themselves, other packages announce theirs through entry points."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Generic, TypeVar

from moesim.spec.errors import MoesimError

Policy = TypeVar("Policy")
Factory = TypeVar("Factory", bound=Callable[..., object])


class Registry(Generic[Policy]):
    """Factories of one kind of policy.

    Args:
        kind: what the policies are, in messages ("placement").
        key: where an experiment names one, for the place of an error.
    """

    def __init__(self, kind: str, key: str) -> None:
        self.kind, self.key = kind, key
        self._factories: dict[str, Callable[..., Policy]] = {}

    @property
    def entry_points(self) -> str:
        """The entry-point group in which other packages announce policies: a factory under its name."""
        return f"moesim.{self.kind}"

    def register(self, name: str) -> Callable[[Factory], Factory]:
        """Decorator: make a factory (a class, mostly) reachable by `name`."""

        def keep(factory: Factory) -> Factory:
            self._factories[name] = factory  # type: ignore[assignment]
            return factory

        return keep

    def make(self, name: str, *arguments: object) -> Policy:
        """The policy of that name. Raises MoesimError where there is none."""
        return self.factory(name)(*arguments)

    def factory(self, name: str) -> Callable[..., Policy]:
        """What makes the policy of that name, of this package or of an installed one.

        Raises:
            MoesimError: there is none; suggests the nearest.
        """
        if name in self._factories:
            return self._factories[name]
        from importlib.metadata import entry_points

        others = entry_points(group=self.entry_points)
        if name in others.names:
            factory: Callable[..., Policy] = others[name].load()
            return factory
        known = sorted({*self._factories, *others.names})
        near = get_close_matches(name, known, n=1)
        fix = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
        raise MoesimError(f"there is no {self.kind} {name!r}", key=self.key, fix=fix)
