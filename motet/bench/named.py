"""All workloads by name.

Owns: the list of them.
Does not know: how any is drawn.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from motet.bench.conversations import ConversationsSpec, draw_conversations
from motet.bench.kind import Sweep, WorkloadKind
from motet.bench.popularity import (
    PunicaMix,
    PunicaSpec,
    UniformSpec,
    ZipfSpec,
    draw_punica_workload,
    draw_uniform_workload,
    draw_zipf_workload,
)
from motet.bench.replay import ReplaySpec, draw_replay
from motet.bench.slora import SETTINGS, SLORA_KINDS
from motet.bench.tenants import TenantsSpec, draw_tenants_workload
from motet.bench.workload import Workload


def _punica(mix: PunicaMix, description: str) -> WorkloadKind[PunicaSpec]:
    return WorkloadKind(
        name=f"punica-{mix}",
        description=f"Punica: {description}",
        spec_type=PunicaSpec,
        draw=draw_punica_workload,
        defaults={"mix": mix},
    )


_KINDS: tuple[WorkloadKind[Any], ...] = (
    WorkloadKind(
        name="uniform",
        description="all adapters are as popular",
        spec_type=UniformSpec,
        draw=draw_uniform_workload,
    ),
    WorkloadKind(
        name="zipf",
        description="popularity by Zipf's law",
        spec_type=ZipfSpec,
        draw=draw_zipf_workload,
    ),
    _punica("distinct", "every request is for another adapter"),
    _punica("uniform", "n requests over sqrt(n) adapters, evenly"),
    _punica("skewed", "each adapter gets 1.5 times as many as the next less popular one"),
    _punica("identical", "all requests are for one adapter"),
    WorkloadKind(
        name="conversations",
        description="turns that each extend the last, on system prompts that many share",
        spec_type=ConversationsSpec,
        draw=draw_conversations,
    ),
    WorkloadKind(
        name="tenants",
        description="tenants of different rates and lengths; one floods and one is polite",
        spec_type=TenantsSpec,
        draw=draw_tenants_workload,
    ),
    WorkloadKind(
        name="replay",
        description="a trace from a file: JSON lines, or CSV with a header",
        spec_type=ReplaySpec,
        draw=draw_replay,
    ),
    *SLORA_KINDS,
    WorkloadKind(
        name="slora-a10g-req-rate-real",
        description="S-LoRA: its rules for a real trace of yours; num_requests 300, 600, 900, 1200",
        spec_type=ReplaySpec,
        draw=draw_replay,
        defaults={
            "duration_s": 300.0,
            "max_prompt_tokens": 511,
            "max_output_tokens": 511,
            "num_requests": 1200,
            "rank_cycle": SETTINGS["S2"].ranks,
        },
        sweep=Sweep(parameter="num_requests", values=(300, 600, 900, 1200)),
    ),
)

WORKLOADS: Mapping[str, WorkloadKind[Any]] = {kind.name: kind for kind in _KINDS}


def make_workload(name: str, parameters: Mapping[str, Any], seed: int) -> Workload:
    """Draw the workload of this name. Equal arguments give equal workloads, on any machine.

    Drawing takes time, and a replay reads a file: in an event loop, call it in a thread.

    Args:
        parameters: by name, those that differ from the defaults; a value is of the parameter's
            type, or a string that spells it, such as "0.3", "null" or, for a list, "8,512".
        seed: from 0 to 2**32 - 1.

    Returns:
        Its `parameters` are all of them, and under "ranks" the rank of each adapter that is asked
        for.

    Raises:
        ValueError: an unknown name or parameter, or a wrong value, with what was expected.
        OSError: a file that the workload is made of cannot be read.
    """
    return find_workload(name).make(parameters, seed)


def find_workload(name: str) -> WorkloadKind[Any]:
    """The kind of this name. Raises ValueError for an unknown one, with those that are like it."""
    kind = WORKLOADS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, WORKLOADS, n=3) or WORKLOADS
        raise ValueError(f"There is no workload {name!r}. Try {', '.join(near)}.")
    return kind
