"""How many adapters does a directory name, and how long does the server take to start with them?

Owns: `registered` and `startup_s`.

The server that is timed is the second to start, so the kernels have been compiled.
"""

import random

from benchmarks.many_adapters.figures import PartReport
from benchmarks.many_adapters.lab import Lab
from benchmarks.many_adapters.plan import SETTINGS
from benchmarks.open_loop import TimedCompletion, play

_NUM_TOKENS = 8


def measure_registration(lab: Lab) -> PartReport:
    """Also checks that an adapter drawn at random answers."""
    lab.few()
    server = lab.many()
    models = server.get_json("/v1/models")["data"]
    names = [model["id"] for model in models if model["parent"] is not None]
    rng = random.Random()
    chosen = rng.choice(names)
    completion = lab.completion(rng, chosen, _NUM_TOKENS, _NUM_TOKENS)
    play(server.url, [TimedCompletion(at_s=0.0, completion=completion)], lab.plan.limit_s)
    return PartReport(
        figures={"registered": len(names), "startup_s": round(server.startup_s, 2)},
        details={
            "answered": chosen,
            "startup_few_s": round(lab.few().startup_s, 2),
            "kinds": {setting: list(kind.ranks) for setting, kind in SETTINGS.items()},
        },
    )
