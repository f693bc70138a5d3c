"""Shares of what is in play: who is owed more, and who has more than that."""

import random
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from motet.scheduler.policies.shares import Shares


def test_whoever_is_alone_is_owed_nothing_and_has_no_excess() -> None:
    shares = Shares()
    shares.join("a", 1.0)
    shares.take("a", 100)
    assert not shares.is_owed("a", 1)
    assert not shares.has_excess("a", 1)


def test_a_newcomer_is_owed_up_to_its_share() -> None:
    shares = Shares()
    shares.join("flood", 1.0)
    shares.take("flood", 100)
    shares.join("polite", 1.0)
    assert shares.is_owed("polite", 33)  # a quarter of 133: half of its share
    assert not shares.is_owed("polite", 34)
    assert shares.has_excess("flood", 100)  # with nothing left, as the other has nothing
    shares.take("polite", 60)
    assert shares.has_excess("flood", 40)
    assert not shares.has_excess("flood", 41)
    assert not shares.has_excess("polite", 1)


def test_weights_are_shares() -> None:
    shares = Shares()
    shares.join("a", 3.0)
    shares.join("b", 1.0)
    shares.take("a", 300)
    assert shares.is_owed("b", 42)  # an eighth of 342
    assert not shares.is_owed("b", 43)
    shares.join("b", 3.0)  # the weight of the latest request counts
    assert shares.is_owed("b", 100)


def test_what_is_gone_counts_no_longer() -> None:
    shares = Shares()
    rng = random.Random(1)
    for number in range(2000):
        shares.join(f"t{number}", rng.uniform(0.01, 100))
    for number in range(2000):
        shares.leave(f"t{number}")
    shares.join("a", 0.01)
    shares.join("b", 0.01)
    shares.take("a", 10)
    assert shares.is_owed("b", 3)
    assert not shares.is_owed("b", 4)


@given(data=st.data())
def test_whoever_is_sent_back_leaves_its_tenant_with_its_share(data: st.DataObject) -> None:
    """So two tenants do not send each other back in turns."""
    num_tenants = data.draw(st.integers(2, 5))
    tokens = data.draw(st.lists(st.integers(0, 50), min_size=num_tenants, max_size=num_tenants))
    weights = data.draw(st.lists(st.integers(1, 4), min_size=num_tenants, max_size=num_tenants))
    shares = Shares()
    for tenant in range(num_tenants):
        shares.join(str(tenant), float(weights[tenant]))
        shares.take(str(tenant), tokens[tenant])
    tenant = data.draw(st.integers(0, num_tenants - 1))
    size = data.draw(st.integers(0, tokens[tenant]))
    owed = Fraction(weights[tenant], sum(weights)) * (sum(tokens) - size)
    assert shares.has_excess(str(tenant), size) == (tokens[tenant] - size >= owed)
    if shares.has_excess(str(tenant), size):
        shares.take(str(tenant), -size)
        assert not shares.is_owed(str(tenant), size) or size == sum(tokens) == 0
