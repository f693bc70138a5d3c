"""How many pages does an adapter of rank 8 take beyond its own bytes?

Owns: `pages_lost_rank8`.

Rows do not cross a page's end, so the last bytes of a page may stay empty. It is the first adapter
on its server, and counted when its request has ended: cached prefixes are not its pages.
"""

import math
import random

from benchmarks.machine import default_elem_bytes
from benchmarks.many_adapters.figures import PartReport
from benchmarks.many_adapters.lab import Lab
from benchmarks.many_adapters.memory_view import idle_memory
from benchmarks.many_adapters.plan import S1
from benchmarks.open_loop import TimedCompletion, play

_NUM_TOKENS = 8


def measure_page_loss(lab: Lab) -> PartReport:
    """Raises RuntimeError if the pool's count and the adapter's own do not agree."""
    server = lab.small()
    name = S1.adapter_name(0)
    before = idle_memory(server)
    completion = lab.completion(random.Random(8), name, _NUM_TOKENS, _NUM_TOKENS)
    play(server.url, [TimedCompletion(at_s=0.0, completion=completion)], lab.plan.limit_s)
    after = idle_memory(server)
    num_pages = after.pages_by_adapter[name]
    if after.num_pages_adapters - before.num_pages_adapters != num_pages:
        raise RuntimeError(
            f"{name} has {num_pages} pages, but those of all adapters went from "
            f"{before.num_pages_adapters} to {after.num_pages_adapters}."
        )
    own_bytes = lab.farm.num_elems(S1, 0) * default_elem_bytes()
    return PartReport(
        figures={"pages_lost_rank8": num_pages - math.ceil(own_bytes / after.page_bytes)},
        details={"num_pages": num_pages, "own_bytes": own_bytes, "page_bytes": after.page_bytes},
    )
