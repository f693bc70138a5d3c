"""What is read off an outcome, by S-LoRA's definitions.

Owns: the few figures that the comparisons print. `motet bench report` has many more of a whole run.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.simulator.simulation import Outcome
from motet.bench.record import RequestRecord


def throughput(outcome: Outcome) -> float:
    """Finished requests a second, up to the end of the last."""
    ends_s = [record.ended_s for record in outcome.records if record.is_finished]
    return len(ends_s) / max(ends_s) if ends_s else 0.0


def attainment(outcome: Outcome, slo_s: float) -> float:
    """The share of all requests whose first token came in time; a refused one's did not."""
    if not outcome.records:
        return 0.0
    times = ttfts(outcome.records)
    return sum(ttft_s < slo_s for ttft_s in times) / len(outcome.records)


def ttfts(records: Iterable[RequestRecord]) -> list[float]:
    """Times to the first token of the finished ones [s]."""
    return [r.ttft_s for r in records if r.is_finished and r.ttft_s is not None]


def percentile(values: Sequence[float], percent: float) -> float:
    """Of values, of which there has to be one; 0 without any."""
    return float(np.percentile(values, percent)) if values else 0.0
