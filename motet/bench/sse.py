"""Reads a streamed completion and times it.

Owns: what counts as a whole stream, and the times of its parts.
Does not know: which HTTP client the lines come from.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


class StreamError(Exception):
    """The stream carried an error, ended early, or lacked its usage."""


@dataclass(kw_only=True)
class Stream:
    """One whole streamed completion.

    Attributes:
        text: all that was generated.
        num_output_tokens: the server's own count, from the usage chunk.
        num_cached_tokens: prompt tokens that the server did not have to compute, by its own count.
        piece_times_s: when each piece came, from the start. A piece is text, or the end of the
            answer; a server may hold text back until a character is whole, so a piece can be more
            than one token.
        total_s: from the start to the end of the stream.
    """

    text: str = ""
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    piece_times_s: list[float] = field(default_factory=list)
    total_s: float = 0.0

    @property
    def ttft_s(self) -> float:
        """From the start to the first piece."""
        return self.piece_times_s[0]

    @property
    def itl_s(self) -> list[float]:
        """The gaps between one piece and the next."""
        return [after - before for before, after in pairwise(self.piece_times_s)]


def read_stream(
    lines: Iterable[bytes], start_s: float, clock: Callable[[], float] = time.perf_counter
) -> Stream:
    """Read the lines of a `text/event-stream` of either completions endpoint to their end.

    Args:
        lines: without their line ends. The request must have asked for `include_usage`.
        start_s: `clock()` at the moment when the request was sent.

    Raises:
        StreamError: an error object in the stream, no `[DONE]`, no usage, or no piece at all.
    """
    reader = StreamReader(start_s, clock)
    for line in lines:
        if reader.feed(line):
            break
    return reader.result()


class StreamReader:
    """`read_stream` for a client that gets its lines one by one, in its own time."""

    def __init__(self, start_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._start_s = start_s
        self._clock = clock
        self._stream = Stream()
        self._usage: dict[str, Any] | None = None
        self._has_ended = False

    def feed(self, line: bytes) -> bool:
        """Take the next line; True after the last. Raises StreamError for an error object."""
        if not line.startswith(b"data:"):
            return False  # blank lines, and comments that keep the connection alive
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            self._has_ended = True
            return True
        chunk = json.loads(data)
        if error := chunk.get("error"):
            raise StreamError(f"error in the stream: {error.get('code')}: {error.get('message')}")
        self._usage = chunk.get("usage") or self._usage
        text, is_end = _piece(chunk)
        if text or is_end:
            self._stream.piece_times_s.append(self._clock() - self._start_s)
            self._stream.text += text
        return False

    def result(self) -> Stream:
        """The whole stream. Raises StreamError if it is not whole."""
        if not self._has_ended:
            raise StreamError("the stream ended without [DONE]")
        stream, usage = self._stream, self._usage
        stream.total_s = self._clock() - self._start_s
        if usage is None:
            raise StreamError("no usage in the stream, though stream_options asked for it")
        stream.num_output_tokens = usage["completion_tokens"]
        details = usage.get("prompt_tokens_details") or {}
        stream.num_cached_tokens = details.get("cached_tokens", 0)
        if not stream.piece_times_s:
            raise StreamError(f"no text in the stream, of {stream.num_output_tokens} tokens")
        return stream


def _piece(chunk: dict[str, Any]) -> tuple[str, bool]:
    """The text of a chunk of either endpoint, and whether it ends the answer.

    Chat completions have the text in `delta.content`, completions in `text`.
    """
    choices = chunk["choices"]
    text = "".join(
        choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices
    )
    return text, any(choice.get("finish_reason") for choice in choices)
