"""How evenly those who ask are served: max-min fair shares, and Jain's index over them.

Owns: these two formulas.
Does not know: runs and requests.

Whoever asks for little should get it, however much others ask for. So what somebody got is
compared with a max-min fair share of what all got together: everybody gets an equal share, but
nobody more than was asked for, and what is left over goes to the others. Jain's index over these
ratios is 1 if all got their share, and 1/n if one of n got everything.

Source: R. Jain, D. Chiu, W. Hawe, "A Quantitative Measure of Fairness and Discrimination for
Resource Allocation in Shared Computer Systems", DEC-TR-301, 1984, where the ratio to the fair
share is called the fraction of demand.
"""

from collections.abc import Sequence

import numpy as np

from motet.bench.columns import Floats


def fair_shares(asked: Sequence[float], total: float) -> Floats:
    """The max-min fair division of `total` among those who `asked`, each for that much.

    Args:
        asked: what each asks for, none of it negative. All together at least `total`.

    Returns:
        float64 [num_askers], whose sum is `total`.
    """
    demands = np.asarray(asked, dtype=np.float64)
    shares = np.empty_like(demands)
    left = float(total)
    for rank, index in enumerate(np.argsort(demands, kind="stable")):
        shares[index] = min(demands[index], left / (len(demands) - rank))
        left -= shares[index]
    return shares


def shares_got(asked: Sequence[float], got: Sequence[float]) -> Floats:
    """What each got of its fair share: 1 is just that, 0 nothing, above 1 at others' cost.

    Args:
        asked: what each asked for, above 0.
        got: what each got, at most what was asked.

    Returns:
        float64 [num_askers]; nothing at all was got by anybody: empty.
    """
    total = float(np.sum(got))
    if total <= 0:
        return np.empty(0)
    return np.asarray(got, dtype=np.float64) / fair_shares(asked, total)


def jain_index(values: Sequence[float] | Floats) -> float | None:
    """(Σx)² / (n Σx²): between 1/n and 1; None if there are no values or all are 0."""
    array = np.asarray(values, dtype=np.float64)
    squares = float(np.square(array).sum())
    if squares == 0:
        return None
    return float(array.sum()) ** 2 / (len(array) * squares)
