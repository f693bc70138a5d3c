"""Adapters that will be needed soon, found out only if somebody asks.

Owns: the delay. Most steps evict nothing and never ask.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import overload


class Wanted(Sequence[str]):
    """Digests, the soonest needed first.

    Args:
        find: works them out; called once at most.
    """

    def __init__(self, find: Callable[[], Sequence[str]]) -> None:
        self._find = find

    @cached_property
    def _digests(self) -> Sequence[str]:
        return self._find()

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._digests[index]

    def __len__(self) -> int:
        return len(self._digests)

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)
