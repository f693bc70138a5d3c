"""Reads a streamed completion and times it.

Owns: what counts as a whole stream, and the times of its parts.
Does not know: which HTTP client the lines come from.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec


class StreamError(Exception):
    """The stream carried an error, ended early, lacked its usage, or was no such stream.

    Attributes:
        code: the server's name for an error of its own, else ours.
    """

    def __init__(self, message: str, *, code: str = "bad_stream") -> None:
        super().__init__(message)
        self.code = code


@dataclass(kw_only=True)
class Stream:
    """One whole streamed completion.

    Attributes:
        text: all that was generated.
        num_prompt_tokens, num_output_tokens: the server's own count, from the usage chunk.
        num_cached_tokens: prompt tokens that the server did not have to compute, by its own count.
        piece_times_s: when each piece came, from the start. A piece is text, or the end of the
            answer; a server may hold text back until a character is whole, so a piece can be more
            than one token.
        total_s: from the start to the end of the stream.
    """

    text: str = ""
    num_prompt_tokens: int = 0
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
        StreamError: an error object in the stream, something that is no chunk, no `[DONE]`, no
            usage, or no piece at all.
    """
    reader = StreamReader(start_s, clock)
    for line in lines:
        if reader.feed(line):
            break
    return reader.result()


class _PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True, kw_only=True):
    completion_tokens: int
    prompt_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    """Of either endpoint: chat completions have the text in `delta`, completions in `text`."""

    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct, frozen=True):
    code: str | int | None = None
    message: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


_DECODER = msgspec.json.Decoder(_Chunk)


class StreamReader:
    """`read_stream` for a client that gets its lines one by one, in its own time."""

    def __init__(self, start_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._start_s = start_s
        self._clock = clock
        self._stream = Stream()
        self._usage: _Usage | None = None
        self._has_ended = False

    @property
    def piece_times_s(self) -> list[float]:
        """When the pieces came that there have been, from the start."""
        return self._stream.piece_times_s

    def feed(self, line: bytes) -> bool:
        """Take the next line; True after the last. Raises StreamError for what is no good."""
        if not line.startswith(b"data:"):
            return False  # blank lines, and comments that keep the connection alive
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            self._has_ended = True
            return True
        chunk = _decode(data)
        self._usage = chunk.usage or self._usage
        text, is_end = _piece(chunk)
        if text or is_end:
            self._stream.piece_times_s.append(self._clock() - self._start_s)
            self._stream.text += text
        return False

    def result(self) -> Stream:
        """The whole stream. Raises StreamError if it is not whole."""
        if not self._has_ended:
            raise StreamError("the stream ended without [DONE]", code="incomplete_stream")
        stream, usage = self._stream, self._usage
        stream.total_s = self._clock() - self._start_s
        if usage is None:
            raise StreamError(
                "no usage in the stream, though stream_options asked for it", code="no_usage"
            )
        stream.num_prompt_tokens = usage.prompt_tokens
        stream.num_output_tokens = usage.completion_tokens
        details = usage.prompt_tokens_details or _PromptDetails()
        stream.num_cached_tokens = details.cached_tokens or 0
        if not stream.piece_times_s:
            raise StreamError(f"no text in the stream, of {stream.num_output_tokens} tokens")
        return stream


def _decode(data: bytes) -> _Chunk:
    """A chunk. Raises StreamError if it is none, or if it tells of an error."""
    try:
        chunk = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StreamError(f"the stream has something that is no chunk: {error}") from error
    if chunk.error is not None:
        code, message = chunk.error.code, chunk.error.message
        raise StreamError(f"error in the stream: {code}: {message}", code=str(code or "error"))
    return chunk


def _piece(chunk: _Chunk) -> tuple[str, bool]:
    """The text of a chunk, and whether it ends the answer."""
    text = "".join(_text(choice) for choice in chunk.choices)
    return text, any(choice.finish_reason for choice in chunk.choices)


def _text(choice: _Choice) -> str:
    in_delta = choice.delta.content if choice.delta is not None else None
    return choice.text or in_delta or ""
