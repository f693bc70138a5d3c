"""Shares of what is in play: who is owed more, and who has more than that."""

import random
from fractions import Fraction

from hypothesis import assume, given
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
    assert shares.is_owed("polite", 100)  # half of 200
    assert not shares.is_owed("polite", 101)
    shares.take("polite", 25)
    assert shares.has_excess("flood", 50)  # two thirds of the 75 that are left: 4/3 of a half
    assert not shares.has_excess("flood", 51)
    assert not shares.has_excess("polite", 1)


def test_weights_are_shares() -> None:
    shares = Shares()
    shares.join("a", 3.0)
    shares.join("b", 1.0)
    shares.take("a", 300)
    assert shares.is_owed("b", 100)
    assert not shares.is_owed("b", 101)
    shares.join("b", 3.0)  # the weight of the latest request counts
    assert shares.is_owed("b", 300)


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
    assert shares.is_owed("b", 10)
    assert not shares.is_owed("b", 11)


@given(data=st.data())
def test_whoever_is_sent_back_leaves_its_tenant_with_more_than_its_share(
    data: st.DataObject,
) -> None:
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
    owed = Fraction(4, 3) * Fraction(weights[tenant], sum(weights)) * (sum(tokens) - size)
    assume(tokens[tenant] - size != owed)  # where floats may say either
    assert shares.has_excess(str(tenant), size) == (tokens[tenant] - size > owed)
    if shares.has_excess(str(tenant), size):
        shares.take(str(tenant), -size)
        assert not shares.is_owed(str(tenant), size)
