"""Whether the client itself was fast enough for its times to mean anything.

Owns: how late it was, in sending and in turning its event loop, and the bound on that.
Does not know: servers.

A client that shares its cores with what it measures, or sends more than one core can, sees pieces
later than they came. That would be taken for the server's doing.
"""

from collections.abc import Sequence
from typing import Any

# Later than this at the 99th percentile, and times to first token are no longer to be trusted.
MAX_LATENESS_S = 0.05


class SelfCheck:
    """How late a client was.

    Attributes:
        loop_lags_s: how late its event loop woke up, several times a second.
        send_lags_s: how long after it was due each request went out.
    """

    def __init__(self) -> None:
        self.loop_lags_s: list[float] = []
        self.send_lags_s: list[float] = []

    @property
    def is_trusted(self) -> bool:
        """Whether the client kept up."""
        return max(_p99(self.loop_lags_s), _p99(self.send_lags_s)) <= MAX_LATENESS_S

    def as_json(self) -> dict[str, Any]:
        """Plain values for a run's settings."""
        return {
            "kept_up": self.is_trusted,
            "loop_lag_p99_s": round(_p99(self.loop_lags_s), 4),
            "send_lag_p99_s": round(_p99(self.send_lags_s), 4),
            "send_lag_max_s": round(max(self.send_lags_s, default=0.0), 4),
        }


def _p99(values: Sequence[float]) -> float:
    """The value that 99 % do not exceed; 0 if there are none."""
    return sorted(values)[-(-len(values) * 99 // 100) - 1] if values else 0.0
