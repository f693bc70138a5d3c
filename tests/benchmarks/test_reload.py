"""What the reload benchmark makes of the streams it saw."""

from typing import Any

from benchmarks.open_loop import Answer, Completion
from benchmarks.reload import NAME, Phase, Plan, report
from motet.bench.sse import Stream

PROMPTS = [[1, 2], [3, 4]]
EXPECTED = [["one a", "one b"], ["two a", "two b"]]
PLAN = Plan(
    num_readers=2,
    num_streams_each=2,
    num_flips=1,
    num_output_tokens=2,
    num_prompts=2,
    num_repeats=1,
)


def answer(prompt: int, text: str, total_s: float = 1.0) -> Answer:
    completion = Completion(model=NAME, prompt=PROMPTS[prompt], num_output_tokens=2)
    stream: Any = Stream(
        text=text,
        num_output_tokens=2,
        num_cached_tokens=0,
        piece_times_s=[total_s / 2, total_s],
        total_s=total_s,
    )
    return Answer(completion=completion, sent_s=0.0, stream=stream)


def test_every_stream_is_of_one_version_or_mixed() -> None:
    flipped = [answer(0, "one a"), answer(1, "two b"), answer(1, "one b"), answer(0, "one b", 2.0)]
    still = Phase([answer(0, "one a"), answer(1, "one b")], [])
    found = report(PLAN, PROMPTS, EXPECTED, {False: [still], True: [Phase(flipped, ["it broke"])]})
    assert found["streams_of_version"] == {"1": 2, "2": 1}
    assert found["mixed_streams"] == 1  # the text of another prompt is no version's
    assert found["failed_streams"] == 1
    assert found["first_error"] == "it broke"
    assert found["slowest_stream_ratio"] == {"median": 2.0, "least": 2.0, "largest": 2.0}
