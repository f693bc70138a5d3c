"""Thousands of names make eleven groups."""

from benchmarks.locust_load.groups import NUM_OWN_ROWS, most_asked


def test_the_most_asked_have_their_own_and_all_others_share_one() -> None:
    weights = {f"a{index}": float(index) for index in range(2000)}
    groups = most_asked(weights, "other adapters")
    assert {groups.of(name) for name in weights} == {
        "other adapters",
        *(f"a{index}" for index in range(2000 - NUM_OWN_ROWS, 2000)),
    }
    assert groups.of("never heard of") == "other adapters"


def test_among_equals_the_first_are_chosen() -> None:
    names = [f"a{index}" for index in range(30)]
    assert most_asked(dict.fromkeys(names, 1.0), "others").own == set(names[:NUM_OWN_ROWS])
