"""What one key uses of its limits.

Owns: requests and tokens a minute, and requests at a time: counting them, and refusing more.
Does not know: HTTP's messages (`limit_middleware.py`), nor how many tokens a request takes
(`generate.py` reserves and settles them).

A refused request counts for nothing, so whoever waits as long as they are told gets in. Tokens
are reserved as the request might use at most, and settled with what it did use.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from motet.server.errors import RetryLaterError
from motet.server.keys import KeyLimits
from motet.server.rate_window import RateWindow

_RETRY_CONCURRENT_S = 1.0  # nobody knows when one of the running requests ends
_CODE = "rate_limit_exceeded"


class KeyUsage:
    """What one key has used of late."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.requests = RateWindow(clock)
        self.tokens = RateWindow(clock)
        self.num_running = 0

    @property
    def is_idle(self) -> bool:
        return self.num_running == 0 and self.requests.used == 0 and self.tokens.used == 0


class Reservation:
    """Tokens that a request may use. Settle it in any case; again does nothing."""

    def __init__(self, tokens: RateWindow, amount: int) -> None:
        self._tokens = tokens
        self._amount = amount
        self._slot = tokens.charge(amount)
        self._is_settled = False

    def settle(self, num_used: int) -> None:
        """Give back what was not used."""
        if not self._is_settled:
            self._is_settled = True
            self._tokens.refund(self._slot, max(0, self._amount - num_used))


class Allowance:
    """What one request may use of its key's limits. End it in any case.

    Raises:
        RetryLaterError: 429, too many requests; nothing was counted.
    """

    def __init__(self, usage: KeyUsage, limits: KeyLimits) -> None:
        if limits.max_concurrent is not None and usage.num_running >= limits.max_concurrent:
            raise RetryLaterError(
                f"This key may have {limits.max_concurrent} requests at a time, and has them. "
                "Wait until one ends.",
                code=_CODE,
                retry_after_s=_RETRY_CONCURRENT_S,
            )
        if limits.requests_per_minute is not None:
            _require_room(usage.requests, 1, limits.requests_per_minute, "requests")
        usage.requests.charge(1)
        usage.num_running += 1
        self._usage = usage
        self._limits = limits

    @property
    def most_tokens(self) -> int | None:
        """Tokens that one request may use at most, however long it waits; None is any number."""
        return self._limits.tokens_per_minute

    def reserve_tokens(self, amount: int) -> Reservation:
        """Count tokens before they are used. Raises RetryLaterError: 429, too many tokens."""
        if self._limits.tokens_per_minute is not None:
            _require_room(self._usage.tokens, amount, self._limits.tokens_per_minute, "tokens")
        return Reservation(self._usage.tokens, amount)

    def end(self) -> None:
        """The request is over."""
        self._usage.num_running -= 1


def _require_room(window: RateWindow, amount: int, limit: int, what: str) -> None:
    wait_s = window.wait_s(amount, limit)
    if wait_s == 0:
        return
    used = f"This key may use {limit} {what} a minute and has used {window.used}"
    if wait_s is None:
        message = f"{used}; this request may need {amount}. Lower max_tokens or shorten the prompt."
    else:
        message = f"{used}; this request needs {amount}. Try again in {math.ceil(wait_s)} seconds."
    raise RetryLaterError(message, code=_CODE, retry_after_s=wait_s)
