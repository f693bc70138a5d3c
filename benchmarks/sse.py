"""Reads a streamed completion and times it.

Owns: what counts as a whole stream, and the times of its parts.
Does not know: which HTTP client the lines come from.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


class StreamError(Exception):
    """The stream carried an error, ended early, or lacked its usage."""


@dataclass(kw_only=True)
class Stream:
    """One whole streamed completion.

    Attributes:
        text: all that was generated.
        num_output_tokens: the server's own count, from the usage chunk.
        ttft_s: from the start to the first text.
        itl_s: the gaps between one piece of text and the next. A server may hold text back until
            a character is whole, so a piece can be more than one token.
        total_s: from the start to the end of the stream.
    """

    text: str = ""
    num_output_tokens: int = 0
    ttft_s: float = 0.0
    itl_s: list[float] = field(default_factory=list)
    total_s: float = 0.0


def read_stream(
    lines: Iterable[bytes], start_s: float, clock: Callable[[], float] = time.perf_counter
) -> Stream:
    """Read the lines of a `text/event-stream` of either completions endpoint to their end.

    Args:
        lines: without their line ends. The request must have asked for `include_usage`.
        start_s: `clock()` at the moment when the request was sent.

    Raises:
        StreamError: an error object in the stream, no `[DONE]`, no usage, or no text at all.
    """
    stream = Stream()
    usage: dict[str, Any] | None = None
    last_s: float | None = None
    for line in lines:
        if not line.startswith(b"data:"):
            continue  # blank lines, and comments that keep the connection alive
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            break
        chunk = json.loads(data)
        if error := chunk.get("error"):
            raise StreamError(f"error in the stream: {error.get('code')}: {error.get('message')}")
        usage = chunk.get("usage") or usage
        if text := _text(chunk):
            now_s = clock()
            if last_s is None:
                stream.ttft_s = now_s - start_s
            else:
                stream.itl_s.append(now_s - last_s)
            last_s = now_s
            stream.text += text
    else:
        raise StreamError("the stream ended without [DONE]")
    stream.total_s = clock() - start_s
    if usage is None:
        raise StreamError("no usage in the stream, though stream_options asked for it")
    stream.num_output_tokens = usage["completion_tokens"]
    if last_s is None:
        raise StreamError(f"no text in the stream, of {stream.num_output_tokens} tokens")
    return stream


def _text(chunk: dict[str, Any]) -> str:
    """The text of a chunk of chat completions (`delta.content`) or of completions (`text`)."""
    return "".join(
        choice.get("text") or choice.get("delta", {}).get("content") or ""
        for choice in chunk["choices"]
    )
