"""What a scheduling policy is: it says whose turn it is among the requests that wait.

Owns: the interface, and what a policy sees of a request.
Does not know: sequences, pages, adapters' places; so a policy is tested without an engine, in any
time one likes.

A request is added to the line, and waits there until it is called. The scheduler calls the next one
when it could run it; whoever has been called keeps that place to the end, though its adapters may
still have to come, or pages to become free. So a policy may change its mind about all who wait, and
nobody whose turn has come is passed over because of that. A request that is preempted returns to
the place it was called to, without the policy.

    add ─► waits ─► call ─► start ─► count_output … ─► end
              └─► remove         (end may come any time after call)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class QueuedRequest:
    """A request as policies see it. No two are equal.

    Attributes:
        request_id: the request's id.
        arrival: order of arrival, also among those of one moment.
        queued_s: when it arrived, on the scheduler's clock.
        priority: those of lower numbers come first, whatever the policy.
        tenant: who pays for it; None is a tenant like any other.
        weight: the tenant's share, relative to those of the others; positive.
        adapters: digests of all that has to be on the device for it; none of the base model.
        num_adapter_tokens: KV tokens that would fit where these adapters lie.
        num_prompt_tokens: tokens of its prompt.
        max_output_tokens: tokens that it may generate at most.
    """

    request_id: str
    arrival: int = 0
    queued_s: float = 0.0
    priority: int = 0
    tenant: str | None = None
    weight: float = 1.0
    adapters: tuple[str, ...] = ()
    num_adapter_tokens: int = 0
    num_prompt_tokens: int = 1
    max_output_tokens: int = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is not worth waiting for, and why.

    Attributes:
        reason: a sentence for whoever sent it.
        retry_after_s: when it may be worth another try.
    """

    request: QueuedRequest
    reason: str
    retry_after_s: float


class Policy(ABC):
    """The order of the waiting requests of one priority.

    What a policy has to share among priorities it gets from whoever makes it.
    """

    @abstractmethod
    def add(self, request: QueuedRequest) -> None:
        """It waits from now on."""

    @abstractmethod
    def remove(self, request: QueuedRequest) -> None:
        """It waits no longer: it was aborted or refused before it was called."""

    @abstractmethod
    def next(self, in_play: Collection[str]) -> QueuedRequest | None:
        """Whose turn it is; None if nobody waits. Nothing changes by asking.

        Args:
            in_play: digests of adapters that requests between call and end use.
        """

    @abstractmethod
    def upcoming(self, count: int) -> list[QueuedRequest]:
        """Those who will probably be called next, the soonest first; all, if there are no more.

        Their adapters are brought nearer ahead of time. A guess will do.
        """

    def call(self, request: QueuedRequest) -> None:
        """The turn of this one has come: it waits here no longer.

        It was the next, unless a policy around this one preferred it.
        """
        self.remove(request)

    def is_owed(self, request: QueuedRequest) -> bool:
        """Whether the sender of one that waits, called or not, has less than it is owed at once.

        Called as one that is owed, it comes before all of its priority that are not. If there is
        no room for it, one that has excess is sent back to the line.
        """
        return False

    def has_excess(self, request: QueuedRequest) -> bool:
        """Whether a called one's sender would have its share without it, or more."""
        return False

    def refusals(self, now_s: float) -> list[Refusal]:
        """Requests that had better be told to go, called or not, but not started.

        The scheduler asks before each step. Each is then removed, or, once called, ended.
        """
        return []

    def next_refusal_s(self) -> float | None:
        """When the next refusal falls due though nothing else happens, on the scheduler's clock.

        None if none will.
        """
        return None

    def start(self, request: QueuedRequest, now_s: float) -> None:
        """A called one runs, for the first time."""
        return

    def count_output(self, request: QueuedRequest, num_tokens: int, now_s: float) -> None:
        """A step has given a called one this many tokens."""
        return

    def end(self, request: QueuedRequest) -> None:
        """A called one is over, in whatever way, whether or not it ever ran."""
        return


PolicyFactory = Callable[[], Policy]
"""Makes the policy of one more priority."""
