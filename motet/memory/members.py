"""What a request uses where it uses more than one adapter: a composition, or a routed set.

Owns: the members by digest, and by slot once they are on the device.
Does not know: where they lie, nor how a router chooses (`kernels/gating.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from motet.core.messages import WeightedAdapter
from motet.core.routing import RoutingRule


@dataclass(frozen=True, slots=True)
class Router:
    """What chooses among the experts of a routed set.

    Attributes:
        digest: the set's, under which the gates lie in the pool.
        rule: how scores become weights.
        experts: digests, in the order of the gates.
        num_gates: gates of the projection that has most of them: as many as there are experts, or
            as the only expert has ranks.
        num_uses: (layer, projection) pairs, or MLP blocks, in which it chooses; at least 1.
    """

    digest: str
    rule: RoutingRule
    experts: tuple[str, ...]
    num_gates: int
    num_uses: int


@dataclass(frozen=True, slots=True)
class Members:
    """The adapters that one digest stands for.

    Attributes:
        fixed: what every token uses: the parts of a composition, or what a set always adds.
        router: of a routed set; None for a composition.
        adapters: digests of all that has to be on the device, each once; a router comes first.
    """

    fixed: tuple[WeightedAdapter, ...]
    router: Router | None = None
    adapters: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        routed = () if self.router is None else (self.router.digest, *self.router.experts)
        adapters = tuple(dict.fromkeys((*routed, *(part.digest for part in self.fixed))))
        object.__setattr__(self, "adapters", adapters)


@dataclass(frozen=True, slots=True)
class MemberSlots:
    """Where the members of a running sequence are on the device.

    Attributes:
        fixed: slot and weight of each adapter that every token uses, by slot.
        router: slot of the gates; None for a composition.
        experts: slots, in the order of the gates.
    """

    fixed: tuple[tuple[int, float], ...]
    router: int | None
    experts: tuple[int, ...]


def member_slots(members: Members, slots: Mapping[str, int]) -> MemberSlots:
    """Members by slot, given the slot of each digest."""
    router = members.router
    return MemberSlots(
        fixed=tuple(sorted((slots[part.digest], part.weight) for part in members.fixed)),
        router=None if router is None else slots[router.digest],
        experts=() if router is None else tuple(slots[digest] for digest in router.experts),
    )
