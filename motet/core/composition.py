"""What a composition of adapters is, for both processes: its identity and its limits.

Owns: the digest of a composition, how many parts it may have, and which weights.
Does not know: names (`server/composition.py`), nor how a composition is computed.
"""

import hashlib
from collections.abc import Sequence

from motet.core.messages import WeightedAdapter

MAX_PARTS = 8
# Beyond this a weight is a mistake: adapters are trained to be used at 1.
MAX_ABS_WEIGHT = 100.0

_PREAMBLE = b"motet composition 1\n"


def composition_digest(parts: Sequence[WeightedAdapter]) -> str:
    """The identity of a composition: SHA-256 over its parts and their weights, in lower-case hex.

    The order of the parts does not matter, for a sum has none. Weights count to their last bit.
    A sole part of weight 1 is no composition but that adapter, which has its own digest.

    Args:
        parts: each adapter once.
    """
    text = hashlib.sha256(_PREAMBLE)
    for part in sorted(parts, key=lambda part: part.digest):
        text.update(f"{part.digest} {part.weight.hex()}\n".encode())
    return text.hexdigest()
