"""How long a request may take.

Owns: `Deadline`, the header that asks for one, and the error when it is over.
Does not know: who ends the request then.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from starlette.datastructures import Headers

from motet.core.errors import MotetError
from motet.server.errors import bad_request

HEADER = "x-request-timeout"
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class Deadline:
    """Until when, in monotonic seconds, a request must have its first token, and its end."""

    first_token_s: float
    end_s: float

    def seconds_left(self, *, has_first_token: bool) -> float:
        """Until the nearer one that is still ahead; not below 0."""
        end_s = self.end_s if has_first_token else min(self.first_token_s, self.end_s)
        return max(0.0, end_s - time.monotonic())


def timed_out() -> MotetError:
    """The error of a request that took too long."""
    return MotetError(
        "The request was not done in time and has been aborted. Ask for fewer tokens, allow it "
        f"more time (header {HEADER}), or try again when the server is less busy.",
        code="timeout",
    )


def requested_timeout_s(headers: Headers, cap_s: float) -> float:
    """Seconds that a request gives itself; the cap, if it says nothing.

    Raises:
        MotetError: 400, it is no number above 0 and up to the cap.
    """
    text = headers.get(HEADER)
    if text is None:
        return cap_s
    seconds = float(text) if _SECONDS.fullmatch(text.strip()) else 0.0
    if not 0 < seconds <= cap_s:
        raise bad_request(
            f"The header {HEADER} should be a number of seconds above 0, and at most {cap_s:g} on "
            f"this server; got {text[:40]!r}.",
            HEADER,
        )
    return seconds
