"""The factor over time, and arrivals that follow it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.locust_load.shapes import Segment, Shape, make_shape

SEGMENTS = st.builds(
    Segment,
    length_s=st.floats(0.1, 1e4),
    first=st.floats(0.01, 100),
    last=st.floats(0.01, 100),
)


def test_a_ramp_rises_evenly_to_its_peak() -> None:
    ramp = make_shape("ramp", 60.0, 4.0)
    assert ramp is not None
    assert ramp.factor_at(0) == 1
    assert ramp.factor_at(30) == pytest.approx(2.5)
    assert ramp.factor_at(59.999) == pytest.approx(4, abs=1e-3)
    assert ramp.factor_at(60) is None


def test_a_spike_is_at_its_peak_for_the_middle_fifth() -> None:
    spike = make_shape("spike", 10.0, 5.0)
    assert spike is not None
    assert [spike.factor_at(t) for t in (0, 3.9, 4.1, 5.9, 6.1, 9.9)] == [1, 1, 5, 5, 1, 1]
    assert spike.factor_at(10.1) is None


def test_a_soak_stays_the_same_and_none_never_ends() -> None:
    soak = make_shape("soak", 3600.0, 9.0)
    assert soak is not None
    assert soak.factor_at(3599) == 1
    assert soak.time_of(1234.5) == pytest.approx(1234.5)
    assert soak.time_of(3600) is None
    assert make_shape("none", 1.0, 1.0) is None


@given(st.lists(SEGMENTS, min_size=1, max_size=4), st.floats(0, 0.999))
def test_so_much_work_is_done_when_it_is_said_to_be(segments: list[Segment], share: float) -> None:
    """Against the sum of the factor over small steps of time."""
    work_s = share * sum(segment.work_s for segment in segments)
    shape = Shape(tuple(segments))
    time_s = shape.time_of(work_s)
    assert time_s is not None
    num_steps = 4000
    middles = ((step + 0.5) * time_s / num_steps for step in range(num_steps))
    done_s = sum(shape.factor_at(at_s) or 0 for at_s in middles) * time_s / num_steps
    assert done_s == pytest.approx(work_s, rel=0.02, abs=0.02)


@pytest.mark.parametrize(
    ("name", "length_s", "peak", "complaint"),
    [
        ("wave", 1.0, 1.0, "expected none, ramp"),
        ("ramp", 0.0, 1.0, "positive"),
        ("ramp", 1.0, float("nan"), "positive"),
        ("soak", float("inf"), 1.0, "positive"),
    ],
)
def test_what_is_no_shape_is_refused(
    name: str, length_s: float, peak: float, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        make_shape(name, length_s, peak)
