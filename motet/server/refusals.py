"""Why a request may be turned away although nothing is wrong with it or with the server.

Owns: `RefusalReason`.
Does not know: who refuses (`first_token_queue.py`, `grammar_service.py`, the engine's policy).
"""

from enum import Enum


class RefusalReason(Enum):
    """What there was too much of. The values are those of logs and metrics.

    They are counted apart from failures: a server that refuses what it cannot do in time works as
    it should, and whoever watches it must not be woken for that.
    """

    QUEUE_FULL = "queue_full"
    POLICY = "policy"  # the scheduling policy gave it up: it would have come too late
    GRAMMARS = "grammars"
