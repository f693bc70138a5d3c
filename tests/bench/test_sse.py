"""Streams are read to their end, timed, and refused when they are not whole."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from motet.bench.sse import StreamError, StreamReader, read_stream


def chunk(text: str | None = None, **fields: Any) -> bytes:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return b"data: " + json.dumps({"choices": choices, **fields}).encode()


USAGE = chunk(usage={"completion_tokens": 3, "prompt_tokens": 5})
DONE = b"data: [DONE]"


def ticks(*seconds: float) -> Iterator[float]:
    yield from seconds


def read(*lines: bytes, clock: Iterator[float] | None = None) -> Any:
    times = clock or iter(range(100))
    return read_stream(lines, 0.0, lambda: next(times))


def test_times_and_text_of_a_chat() -> None:
    role = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}], "usage": null}'
    lines = [b": keep-alive", role, b"", chunk("two "), chunk("voices"), chunk("!"), USAGE, DONE]
    stream = read(*lines, clock=ticks(0.5, 0.75, 2.0, 2.25))
    assert stream.text == "two voices!"
    assert (stream.num_prompt_tokens, stream.num_output_tokens) == (5, 3)
    assert stream.ttft_s == 0.5  # the role alone is no text
    assert stream.itl_s == [0.25, 1.25]
    assert stream.total_s == 2.25


def test_text_of_a_completion_with_line_ends() -> None:
    line = b'data: {"choices": [{"index": 0, "text": "la"}], "usage": null}\r\n'
    assert read(line, line, USAGE + b"\n", DONE + b"\n").text == "lala"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([chunk("a"), USAGE], "without"),
        ([chunk("a"), DONE], "no usage"),
        ([USAGE, DONE], "no text"),
        ([chunk("a"), b'data: {"error": {"code": "engine_dead", "message": "x"}}'], "engine_dead"),
        ([b'data: {"error": {"code": 500, "message": "x"}}'], "500: x"),
        ([b"data: 3", DONE], "no chunk"),
        ([b"data: {"], "no chunk"),
        ([b"data: \xff\xfe"], "no chunk"),
        ([b'data: {"choices": [{"text": 1}]}'], "no chunk"),
        ([chunk("a", usage={"completion_tokens": "many"})], "no chunk"),
    ],
)
def test_a_stream_that_is_not_whole_is_refused(lines: list[bytes], complaint: str) -> None:
    with pytest.raises(StreamError, match=complaint):
        read(*lines)


def test_the_code_of_an_error_is_the_servers() -> None:
    with pytest.raises(StreamError) as caught:
        read(b'data: {"error": {"code": "engine_dead", "message": "x"}}')
    assert caught.value.code == "engine_dead"


def test_the_pieces_of_a_stream_that_breaks_off_are_known() -> None:
    times = ticks(0.5, 0.75)
    reader = StreamReader(0.0, lambda: next(times))
    for line in (chunk("two "), chunk("voices")):
        reader.feed(line)
    with pytest.raises(StreamError) as caught:
        reader.result()
    assert caught.value.code == "incomplete_stream"
    assert reader.piece_times_s == [0.5, 0.75]
