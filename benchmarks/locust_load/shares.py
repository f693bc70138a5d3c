"""How a workload is divided among processes.

Owns: which requests belong together, and whose they are.
Does not know: how processes learn their place among the others.
"""

from collections.abc import Sequence

from motet.bench.workload import WorkRequest


def conversations(requests: Sequence[WorkRequest]) -> list[list[WorkRequest]]:
    """Requests with those that come after them, in the order of each conversation's first."""
    found: list[list[WorkRequest]] = []
    place_of: dict[int, int] = {}  # a request's index -> its conversation
    for request in requests:
        place = None if request.after is None else place_of.get(request.after)
        if place is None:
            place = len(found)
            found.append([])
        found[place].append(request)
        place_of[request.index] = place
    return found


def take_share(requests: Sequence[WorkRequest], index: int, count: int) -> list[WorkRequest]:
    """What process `index` of `count` sends. Each request is in one share, conversations whole.

    Returns:
        in the order given.
    """
    mine = [each for talk in conversations(requests)[index::count] for each in talk]
    return sorted(mine, key=lambda request: (request.arrival_s, request.index))
