"""Completions are sent at their times, timed piece by piece, and refused if not whole."""

from itertools import cycle, islice

import pytest

from benchmarks.open_loop import Completion, CompletionError, TimedCompletion, play
from tests.benchmarks.fake_server import WORDS, FakeServer, running

LIMIT_S = 60.0


def timed(model: str, at_s: float = 0.0, num_output_tokens: int = 4) -> TimedCompletion:
    completion = Completion(model=model, prompt=[1, 2, 3], num_output_tokens=num_output_tokens)
    return TimedCompletion(at_s=at_s, completion=completion)


def test_answers_come_in_the_order_given_with_their_times() -> None:
    with running(FakeServer(models=("a", "b"), num_cached_tokens=2)) as server:
        answers = play(server.url, [timed("a", 0.2), timed("b", num_output_tokens=100)], LIMIT_S)
    assert [answer.completion.model for answer in answers] == ["a", "b"]
    late, early = answers
    assert late.sent_s >= 0.2
    # An open loop: the later one did not wait for the end of the earlier, which took two seconds.
    assert early.sent_s < late.sent_s < early.end_s
    for answer in answers:
        count = answer.completion.num_output_tokens
        assert answer.stream.text == "".join(islice(cycle(WORDS), count))
        assert answer.stream.num_output_tokens == count
        assert answer.stream.num_cached_tokens == 2
        assert len(answer.piece_times_s) == count
        assert answer.sent_s < answer.piece_times_s[0] < answer.piece_times_s[-1] <= answer.end_s
        # The server sleeps no less than it says before each word.
        assert answer.stream.ttft_s >= 0.02 - 2e-3
        assert sum(answer.stream.itl_s) >= 0.02 * (count - 1) - 2e-3


def test_what_is_asked_is_greedy_and_of_exact_length() -> None:
    with running(FakeServer(models=("a",))) as server:
        play(server.url, [timed("a")], LIMIT_S)
    [body] = server.bodies
    assert body["prompt"] == [1, 2, 3]
    assert body["max_tokens"] == 4
    assert body["temperature"] == 0
    assert body["ignore_eos"] is True


@pytest.mark.parametrize(
    ("model", "complaint"),
    [("broken", "the engine died"), ("nope", "refused"), ("short", "3 tokens, expected 4")],
)
def test_one_failure_ends_all_with_the_servers_message(model: str, complaint: str) -> None:
    with (
        running(FakeServer(models=("a", "broken", "short"))) as server,
        pytest.raises(CompletionError, match=complaint),
    ):
        play(server.url, [timed("a", at_s=3600.0), timed(model)], LIMIT_S)


def test_there_is_a_limit() -> None:
    with running(FakeServer(models=("a",))) as server, pytest.raises(TimeoutError):
        play(server.url, [timed("a", at_s=3600.0)], limit_s=0.1)


def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(CompletionError, match="ConnectError"):
        play("http://127.0.0.1:9", [timed("a")], LIMIT_S)
