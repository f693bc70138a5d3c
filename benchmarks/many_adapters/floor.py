"""What the bytes of more adapters must cost, from what ran and how fast this machine reads.

Owns: the arithmetic of the floor.
Does not know: servers and traces.

A decode step reads the rank rows of each adapter in it once, however many requests share it. So
each decoded token is charged its share of its adapter's bytes: 1/k, if k requests of this adapter
were decoding when it came. Summed over all tokens that is the number of steps that an adapter was
in, times its bytes, without knowing which tokens were of one step. The times are the client's. What
prefill reads is not counted, nor that fewer sequences fit beside more adapters: the floor is what
no layout of memory could avoid.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AdapterUse:
    """One request: its adapter, that adapter's bytes on the device, and when its tokens came."""

    adapter: str
    adapter_bytes: int
    num_output_tokens: int
    piece_times_s: list[float]


def decode_read_bytes(uses: Sequence[AdapterUse]) -> float:
    """Adapter bytes that the decode steps of these requests read."""
    by_adapter: dict[str, list[AdapterUse]] = defaultdict(list)
    for use in uses:
        by_adapter[use.adapter].append(use)
    return sum(_num_steps_charged(use, by_adapter[use.adapter]) * use.adapter_bytes for use in uses)


def _num_steps_charged(use: AdapterUse, same_adapter: Sequence[AdapterUse]) -> float:
    """Steps of this request, each divided by the requests that shared the adapter in it.

    The first token comes from prefill. A piece may be several tokens, so the shares of the pieces
    are averaged and counted once for each token.
    """
    decoded_s = use.piece_times_s[1:]
    if not decoded_s:
        return use.num_output_tokens - 1
    shares = [1 / sum(_decodes_at(other, time_s) for other in same_adapter) for time_s in decoded_s]
    return (use.num_output_tokens - 1) * sum(shares) / len(shares)


def _decodes_at(use: AdapterUse, time_s: float) -> bool:
    return use.piece_times_s[0] < time_s <= use.piece_times_s[-1]


def floor_ratio(few_s: float, extra_bytes: float, bandwidth_bytes_per_s: float) -> float:
    """The best that throughput with many adapters over that with few could be, for equal work.

    Args:
        few_s: wall time with few adapters.
        extra_bytes: what must be moved beyond what the few needed; less than nothing is nothing.
    """
    return few_s / (few_s + max(0.0, extra_bytes) / bandwidth_bytes_per_s)
