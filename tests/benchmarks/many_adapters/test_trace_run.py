"""What a run reports of its requests."""

from benchmarks.many_adapters.trace_run import max_decoding
from benchmarks.open_loop import Answer, Completion
from motet.bench.sse import Stream


def answer(sent_s: float, first_s: float, end_s: float) -> Answer:
    stream = Stream(
        num_output_tokens=2,
        piece_times_s=[first_s - sent_s, end_s - sent_s],
        total_s=end_s - sent_s,
    )
    completion = Completion(model="a", prompt=[1], num_output_tokens=2)
    return Answer(completion=completion, sent_s=sent_s, stream=stream)


def test_waiting_requests_do_not_decode() -> None:
    answers = [answer(0, 1, 4), answer(0, 2, 3), answer(0, 4, 5), answer(0, 3.5, 6)]
    assert max_decoding(answers) == 2
