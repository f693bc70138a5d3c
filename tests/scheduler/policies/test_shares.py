"""Shares of what is in play: who is owed more, and who has more than that."""

import random
from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from motet.scheduler.policies.shares import FADES_S, Shares


def test_whoever_is_alone_is_owed_nothing_and_has_no_excess() -> None:
    shares = Shares()
    shares.join("a", 1.0)
    shares.take("a", 100)
    shares.serve("a", 100, 0.0)
    assert not shares.is_owed("a", 1)
    assert not shares.has_excess("a", 1)


def test_a_newcomer_is_owed_up_to_its_share() -> None:
    shares = Shares()
    shares.join("flood", 1.0)
    shares.take("flood", 100)
    shares.serve("flood", 100, 0.0)
    shares.join("polite", 1.0)
    assert shares.is_owed("polite", 100)  # half of 200
    assert not shares.is_owed("polite", 101)
    shares.take("polite", 25)
    assert shares.has_excess("flood", 49)  # more than two thirds of the 76 that are left
    assert not shares.has_excess("flood", 51)
    assert not shares.has_excess("polite", 1)


def test_weights_are_shares() -> None:
    shares = Shares()
    shares.join("a", 3.0)
    shares.join("b", 1.0)
    shares.take("a", 300)
    shares.serve("a", 300, 0.0)
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
    shares.serve("a", 10, 0.0)
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
        shares.serve(str(tenant), tokens[tenant], 0.0)
    tenant = data.draw(st.integers(0, num_tenants - 1))
    size = data.draw(st.integers(0, tokens[tenant]))
    part = Fraction(4, 3) * Fraction(weights[tenant], sum(weights))
    left, all_left = tokens[tenant] - size, sum(tokens) - size
    # Where they are equal, floats may say either.
    assume(left != part * all_left and tokens[tenant] != part * sum(tokens))
    expected = left > part * all_left and tokens[tenant] > part * sum(tokens)
    assert shares.has_excess(str(tenant), size) == expected
    if expected:
        shares.take(str(tenant), -size)
        assert not shares.is_owed(str(tenant), size)


def test_few_long_requests_are_not_greed() -> None:
    """More in play, but served less: neither has what the other is owed."""
    shares = Shares()
    shares.join("short", 1.0)
    shares.join("long", 1.0)
    shares.take("short", 100)
    shares.take("long", 300)
    shares.serve("short", 200, 1.0)
    shares.serve("long", 100, 1.0)
    assert not shares.has_excess("long", 10)
    assert not shares.is_owed("short", 10)
    assert not shares.has_excess("short", 10)
    assert not shares.is_owed("long", 10)


def test_service_fades() -> None:
    shares = Shares()
    shares.join("a", 1.0)
    shares.join("b", 1.0)
    shares.serve("a", 100, 0.0)
    shares.serve("b", 10, FADES_S * 3)
    assert shares.is_owed("a", 0)  # 100 / e³ is 5
    shares.serve("b", 1, FADES_S * 10_000)
    shares.serve("a", 2, FADES_S * 10_000)
    assert not shares.is_owed("a", 0)
    assert shares.is_owed("b", 0)
