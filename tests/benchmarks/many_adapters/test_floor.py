"""The floor charges each step with each adapter in it once."""

import pytest

from benchmarks.many_adapters.floor import AdapterUse, decode_read_bytes, floor_ratio


def use(adapter: str, times_s: list[float], num_tokens: int | None = None) -> AdapterUse:
    return AdapterUse(
        adapter=adapter,
        adapter_bytes={"a": 100, "b": 1000}[adapter],
        num_output_tokens=len(times_s) if num_tokens is None else num_tokens,
        piece_times_s=times_s,
    )


def test_a_request_alone_reads_its_adapter_in_each_decode_step() -> None:
    assert decode_read_bytes([use("a", [1.0, 2.0, 3.0, 4.0])]) == 3 * 100


def test_the_first_token_is_not_decoded() -> None:
    assert decode_read_bytes([use("a", [1.0])]) == 0


def test_requests_of_one_adapter_share_its_bytes() -> None:
    exactly = [use("a", [1.0, 2.0, 3.0]), use("a", [1.0, 2.0, 3.0])]
    assert decode_read_bytes(exactly) == 2 * 100
    # The client sees the tokens of one step a little apart.
    steps = [float(step) for step in range(200)]
    apart = [use("a", steps), use("a", [step + 0.001 for step in steps])]
    assert decode_read_bytes(apart) == pytest.approx(199 * 100, rel=0.01)


def test_requests_of_different_adapters_share_nothing() -> None:
    times_s = [1.0, 2.0, 3.0]
    assert decode_read_bytes([use("a", times_s), use("b", times_s)]) == 2 * 100 + 2 * 1000


def test_requests_that_do_not_overlap_share_nothing() -> None:
    assert decode_read_bytes([use("a", [1.0, 2.0]), use("a", [2.0, 3.0])]) == 2 * 100


def test_a_later_request_shares_only_the_steps_that_both_are_in() -> None:
    long, late = use("a", [0.0, 1.0, 2.0, 3.0, 4.0]), use("a", [2.0, 3.0, 4.0])
    assert decode_read_bytes([long, late]) == pytest.approx(4 * 100)


def test_a_piece_of_several_tokens_counts_as_so_many_steps() -> None:
    assert decode_read_bytes([use("a", [1.0, 3.0, 4.0], num_tokens=5)]) == 4 * 100
    assert decode_read_bytes([use("a", [4.0], num_tokens=5)]) == 4 * 100


def test_the_floor_adds_the_time_of_the_bytes() -> None:
    assert floor_ratio(10.0, extra_bytes=5e9, bandwidth_bytes_per_s=2e9) == pytest.approx(10 / 12.5)
    assert floor_ratio(10.0, extra_bytes=-1.0, bandwidth_bytes_per_s=2e9) == 1.0
