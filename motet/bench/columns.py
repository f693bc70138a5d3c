"""The requests of a run as arrays, one element for each request.

Owns: what of a record counts as in time, and late.
Does not know: what is made of the arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from motet.bench.record import RequestRecord, Slo

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """All of shape [num_requests], in the order of the workload; seconds from the start of the run.

    Attributes:
        sent_s, ended_s: when each was sent, and when its answer or its error ended.
        ttft_s: from sending to the first token; NaN where none came.
        tpot_s: the mean time for each token after the first; NaN where there is none.
        num_output_tokens: by the server's count.
        is_finished: all of the answer came.
        is_refused: the server said at once or later that it has no room (429, 503). All others that
            did not finish have failed.
        is_in_time: it finished, and kept what the SLO promises.
    """

    sent_s: Floats
    ended_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    num_output_tokens: Floats
    is_finished: Bools
    is_refused: Bools
    is_in_time: Bools

    @property
    def num_requests(self) -> int:
        """How many requests there are."""
        return len(self.sent_s)

    @property
    def latency_s(self) -> Floats:
        """From sending to the end."""
        return self.ended_s - self.sent_s

    @property
    def end_s(self) -> float:
        """When the last request ended; 0 if there is none."""
        return float(self.ended_s.max(initial=0.0))


def columns_of(requests: Sequence[RequestRecord], slo: Slo) -> Columns:
    """The columns of a run's records, with `slo` as what was promised.

    As in S-LoRA's evaluation, a first token after exactly the promised time is late.

    Raises:
        ValueError: the SLO promises a time that is not positive.
    """
    _check_slo(slo)
    ttft_s = _floats([np.nan if each.ttft_s is None else each.ttft_s for each in requests])
    tpot_s = _floats([_tpot_s(each) for each in requests])
    is_finished = np.array([each.is_finished for each in requests], dtype=bool)
    is_in_time = is_finished & (ttft_s < slo.ttft_s)
    if slo.itl_s is not None:
        is_in_time &= np.isnan(tpot_s) | (tpot_s <= slo.itl_s)
    return Columns(
        sent_s=_floats([each.sent_s for each in requests]),
        ended_s=_floats([each.ended_s for each in requests]),
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        num_output_tokens=_floats([each.num_output_tokens for each in requests]),
        is_finished=is_finished,
        is_refused=np.array([each.is_refused for each in requests], dtype=bool),
        is_in_time=is_in_time,
    )


def gaps_s(requests: Sequence[RequestRecord]) -> Floats:
    """Times between one piece and the next, of all answers that are whole: ITL as a client sees it.

    A server that sends several tokens in a piece has fewer and longer gaps.
    """
    gaps = [np.diff(np.asarray(each.piece_times_s)) for each in requests if each.is_finished]
    return np.concatenate([np.empty(0), *gaps])


def _check_slo(slo: Slo) -> None:
    for name, value in (("ttft_s", slo.ttft_s), ("itl_s", slo.itl_s)):
        if value is not None and not value > 0:
            raise ValueError(f"The SLO's {name} is {value}; it has to be a time above 0 s.")


def _floats(values: Sequence[float]) -> Floats:
    return np.array(values, dtype=np.float64)


def _tpot_s(record: RequestRecord) -> float:
    if len(record.piece_times_s) < 2 or record.num_output_tokens < 2:
        return np.nan
    after_first_s = record.piece_times_s[-1] - record.piece_times_s[0]
    return after_first_s / (record.num_output_tokens - 1)
