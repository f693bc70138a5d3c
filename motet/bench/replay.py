"""Replays a trace from a file: what was asked for, when, and of which adapter.

Owns: which lines of a trace are taken, at what pace, and who gets those that name no adapter.
Does not know: the file's format (`trace_file.py`).

S-LoRA's rules for its real trace are options: each model of Chatbot Arena is an adapter, long
requests are left out, some of the rest are kept, and their times are stretched to a duration.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from motet.bench.kind import Drawn, Spec
from motet.bench.load import Adapters, Exponent, RankCycle, round_times
from motet.bench.popularity import draw_zipf
from motet.bench.trace_file import TraceLine, read_trace
from motet.bench.workload import LONGEST, WorkRequest

_Length = Annotated[int, Meta(ge=1, le=LONGEST)]
_Count = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0, le=1e7)]


class ReplaySpec(Spec, frozen=True, kw_only=True):
    """Parameters of a replay. A limit of null is none."""

    path: Annotated[str, Meta(min_length=1, description="of the trace")]
    duration_s: Annotated[
        _Seconds | None, Meta(description="times are stretched to it; null leaves them")
    ] = None
    max_prompt_tokens: Annotated[
        _Length | None, Meta(description="requests of longer prompts are left out")
    ] = None
    max_output_tokens: Annotated[
        _Length | None, Meta(description="requests of longer answers are left out")
    ] = None
    num_requests: Annotated[
        _Count | None, Meta(description="so many of the others are kept, by chance")
    ] = None
    num_adapters: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000_000,
            description="over which requests that name none are spread; 0 asks the base model",
        ),
    ] = 0
    exponent: Exponent = 1.0
    rank_cycle: RankCycle = (16,)


def draw_replay(spec: ReplaySpec, seed: int) -> Drawn:
    """The requests of a trace, in the order of their times; equal files give equal ones.

    Requests without a prompt or an answer are left out: those are what failed.

    Raises:
        ValueError: the file is no trace, or has too few requests.
        OSError: it cannot be read.
    """
    rng = np.random.RandomState(seed)
    lines = _keep(spec, rng, read_trace(Path(spec.path)))
    spread = Adapters("adapter", spec.rank_cycle)
    indices = draw_zipf(rng, max(1, spec.num_adapters), spec.exponent, len(lines)).tolist()
    others = [spread.name(index) if spec.num_adapters else None for index in indices]
    requests = [
        WorkRequest(
            index=index,
            arrival_s=arrival_s,
            adapter=line.adapter or other,
            num_prompt_tokens=line.num_prompt_tokens,
            num_output_tokens=line.num_output_tokens,
            stream=index,
        )
        for index, (line, arrival_s, other) in enumerate(
            zip(lines, _arrivals(spec, lines), others, strict=True)
        )
    ]
    return Drawn(requests=requests, ranks=_ranks(spec, requests))


def _keep(
    spec: ReplaySpec, rng: np.random.RandomState, lines: Sequence[TraceLine]
) -> list[TraceLine]:
    """The lines that are taken, in the order of their times."""
    max_prompt, max_output = spec.max_prompt_tokens or LONGEST, spec.max_output_tokens or LONGEST
    kept = [
        line
        for line in sorted(lines, key=lambda line: line.at_s)
        if 1 <= line.num_prompt_tokens <= max_prompt and 1 <= line.num_output_tokens <= max_output
    ]
    wanted = len(kept) if spec.num_requests is None else spec.num_requests
    if not 1 <= wanted <= len(kept):
        raise ValueError(
            f"{spec.path} has {len(kept)} requests within the limits: "
            f"expected at least {max(1, wanted)}."
        )
    places = sorted(rng.choice(len(kept), wanted, replace=False).tolist())
    return [kept[place] for place in places]


def _arrivals(spec: ReplaySpec, lines: Sequence[TraceLine]) -> list[float]:
    """Seconds from the first, stretched to the duration if there is one."""
    times_s = np.array([line.at_s for line in lines])
    times_s -= times_s[0]
    if spec.duration_s is not None and times_s[-1] > 0:
        times_s *= spec.duration_s / times_s[-1]
    return round_times(times_s)


def _ranks(spec: ReplaySpec, requests: Sequence[WorkRequest]) -> dict[str, int]:
    """Ranks go round the adapters in the order in which they are first asked for."""
    named = dict.fromkeys(request.adapter for request in requests if request.adapter is not None)
    return {name: spec.rank_cycle[index % len(spec.rank_cycle)] for index, name in enumerate(named)}
