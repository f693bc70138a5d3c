"""The identity of a composition: what changes it and what does not."""

import hashlib
import random

import hypothesis.strategies as st
from hypothesis import given

from motet.core.composition import MAX_ABS_WEIGHT, MAX_PARTS, composition_digest
from motet.core.messages import WeightedAdapter

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
WEIGHTS = st.floats(-MAX_ABS_WEIGHT, MAX_ABS_WEIGHT).filter(bool)
PARTS = st.dictionaries(DIGESTS, WEIGHTS, min_size=1, max_size=MAX_PARTS).map(
    lambda parts: [WeightedAdapter(digest, weight) for digest, weight in parts.items()]
)


def test_it_is_of_the_sorted_parts_and_the_exact_weights() -> None:
    low, high = "0" * 64, "f" * 64
    parts = [WeightedAdapter(high, 0.1), WeightedAdapter(low, -2.0)]
    text = f"motet composition 1\n{low} -0x1.0000000000000p+1\n{high} 0x1.999999999999ap-4\n"
    assert composition_digest(parts) == hashlib.sha256(text.encode()).hexdigest()


@given(parts=PARTS, order=st.randoms(use_true_random=False))
def test_the_order_does_not_matter(parts: list[WeightedAdapter], order: random.Random) -> None:
    shuffled = list(parts)
    order.shuffle(shuffled)
    assert composition_digest(shuffled) == composition_digest(parts)


@given(one=PARTS, other=PARTS)
def test_other_parts_or_weights_are_another(
    one: list[WeightedAdapter], other: list[WeightedAdapter]
) -> None:
    def as_set(parts: list[WeightedAdapter]) -> set[tuple[str, float]]:
        return {(part.digest, part.weight) for part in parts}

    is_same = as_set(one) == as_set(other)
    assert (composition_digest(one) == composition_digest(other)) == is_same
