"""All workloads by name.

Owns: the list of them.
Does not know: how any is drawn.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from motet.bench.kind import WorkloadKind
from motet.bench.popularity import (
    PunicaMix,
    PunicaSpec,
    UniformSpec,
    ZipfSpec,
    draw_punica_workload,
    draw_uniform_workload,
    draw_zipf_workload,
)
from motet.bench.slora import SLORA_KINDS
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
    *SLORA_KINDS,
)

WORKLOADS: Mapping[str, WorkloadKind[Any]] = {kind.name: kind for kind in _KINDS}


def make_workload(name: str, parameters: Mapping[str, Any], seed: int) -> Workload:
    """Draw the workload of this name. Equal arguments give equal workloads, on any machine.

    Args:
        parameters: by name, those that differ from the defaults; a value is of the parameter's
            type, or a string that spells it, such as "0.3" or, for a list, "8,512".
        seed: from 0 to 2**32 - 1.

    Returns:
        Its `parameters` are all of them, and under "ranks" the rank of each adapter that is asked
        for.

    Raises:
        ValueError: an unknown name or parameter, or a wrong value, with what was expected.
        OSError: a file that the workload is made of cannot be read.
    """
    kind = WORKLOADS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, WORKLOADS, n=3) or WORKLOADS
        raise ValueError(f"There is no workload {name!r}. Try {', '.join(near)}.")
    return kind.make(parameters, seed)
