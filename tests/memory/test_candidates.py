"""What may be evicted, the least weight first: examples, and a sorted list as the model."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from motet.memory.candidates import Candidates

ITEMS = "abcdef"


def offered(**weights: float) -> Candidates[str]:
    candidates: Candidates[str] = Candidates()
    for item, weight in weights.items():
        candidates.offer(item, weight)
    return candidates


def order(candidates: Candidates[str]) -> str:
    """Take all of them; in which order they went."""
    taken = ""
    while (found := candidates.lowest()) is not None:
        candidates.withdraw(found[1])
        taken += found[1]
    return taken


def test_without_candidates_there_is_no_lowest() -> None:
    candidates = offered()
    assert candidates.lowest() is None
    assert len(candidates) == 0
    assert "a" not in candidates


def test_the_least_weight_goes_first_and_says_its_weight() -> None:
    candidates = offered(a=2.5, b=-1.0, c=7.0)
    assert candidates.lowest() == (-1.0, "b")
    assert order(candidates) == "bac"


def test_the_lowest_stays_a_candidate() -> None:
    candidates = offered(a=1.0, b=2.0)
    assert candidates.lowest() == candidates.lowest() == (1.0, "a")
    assert (len(candidates), "a" in candidates) == (2, True)


def test_one_that_is_offered_again_has_its_new_weight_alone() -> None:
    candidates = offered(a=1.0, b=2.0, c=3.0)
    candidates.offer("a", 2.5)
    candidates.offer("c", 0.5)
    assert len(candidates) == 3
    assert candidates.lowest() == (0.5, "c")
    assert order(candidates) == "cba"


def test_what_is_withdrawn_is_no_candidate_until_it_is_offered_again() -> None:
    candidates = offered(a=1.0, b=2.0)
    candidates.withdraw("a")
    candidates.withdraw("a")
    candidates.withdraw("never offered")
    assert ("a" in candidates, len(candidates)) == (False, 1)
    assert candidates.lowest() == (2.0, "b")
    candidates.offer("a", 3.0)
    assert order(candidates) == "ba"


def test_what_is_excluded_is_passed_over_and_stays() -> None:
    candidates = offered(a=1.0, b=2.0, c=3.0)
    assert candidates.lowest(excluding={"a", "b"}) == (3.0, "c")
    assert candidates.lowest(excluding=["c", "a", "unknown"]) == (2.0, "b")
    assert candidates.lowest(excluding="abc") is None
    assert order(candidates) == "abc"


def test_of_equal_weights_the_older_offer_goes_first() -> None:
    candidates = offered(c=1.0, a=1.0, b=1.0)
    assert candidates.lowest(excluding={"c"}) == (1.0, "a")
    assert order(candidates) == "cab"


def test_items_need_no_order_of_their_own() -> None:
    candidates: Candidates[object] = Candidates()
    items = [object() for _ in range(20)]
    for item in items:
        candidates.offer(item, 1.0)
    assert candidates.lowest(excluding=items[:7]) == (1.0, items[7])


def test_what_was_taken_back_does_not_pile_up() -> None:
    candidates = offered(**dict.fromkeys(ITEMS, 0.0))
    for number in range(10_000):
        candidates.offer(ITEMS[number % 5], float(number))
        if number % 7 == 0:
            candidates.withdraw("a")
        assert len(candidates._heap) < 200
    assert candidates.lowest() == (0.0, "f")


class CandidatesMachine(RuleBasedStateMachine):
    """Candidates against a list of (weight, age, item)."""

    def __init__(self) -> None:
        super().__init__()
        self.candidates: Candidates[str] = Candidates()
        self.model: list[tuple[float, int, str]] = []
        self.num_offers = 0

    def remove(self, item: str) -> None:
        self.model = [entry for entry in self.model if entry[2] != item]

    @rule(item=st.sampled_from(ITEMS), weight=st.integers(-3, 3), times=st.integers(1, 60))
    def offer(self, item: str, weight: int, times: int) -> None:
        """Often enough for the heap to be built anew."""
        for _ in range(times):
            self.num_offers += 1
            self.candidates.offer(item, float(weight))
        self.remove(item)
        self.model.append((float(weight), self.num_offers, item))

    @rule(item=st.sampled_from(ITEMS))
    def withdraw(self, item: str) -> None:
        self.candidates.withdraw(item)
        self.remove(item)

    @rule(excluding=st.sets(st.sampled_from(ITEMS)))
    def lowest(self, excluding: set[str]) -> None:
        rest = sorted(entry for entry in self.model if entry[2] not in excluding)
        expected = (rest[0][0], rest[0][2]) if rest else None
        assert self.candidates.lowest(excluding) == expected

    @invariant()
    def agrees(self) -> None:
        items = {item for _, _, item in self.model}
        assert len(self.candidates) == len(items)
        assert {item for item in ITEMS if item in self.candidates} == items


TestCandidatesMachine = CandidatesMachine.TestCase
TestCandidatesMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
