"""What an answer that is no 200 says.

Owns: OpenAI's error object, `Retry-After` in its forms, and what is made of answers without either.
"""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import httpx2
import msgspec

_MAX_BODY_BYTES = 64 << 10


class Refusal(NamedTuple):
    """Why, and when to come again; `code` is the server's, or the HTTP status."""

    code: str
    message: str
    retry_after_s: float | None


class _Error(msgspec.Struct, frozen=True):
    code: str | int | None = None
    type: str | None = None
    message: str = ""


class _Body(msgspec.Struct, frozen=True):
    error: _Error


async def read_refusal(response: httpx2.Response) -> Refusal:
    """Read the first of the body; what comes after is left, and the connection with it."""
    status = f"HTTP {response.status_code}"
    content = b""
    async for part in response.aiter_raw():
        content += part
        if len(content) > _MAX_BODY_BYTES:
            break
    try:
        error = msgspec.json.decode(content, type=_Body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = _Error(message=content.decode(errors="replace"))
    return Refusal(
        code=str(error.code or error.type or status),
        message=f"{status}: {error.message}",
        retry_after_s=_retry_after_s(response.headers),
    )


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    """From `retry-after-ms`, or from `Retry-After` as seconds or a date; None if neither is one."""
    if (ms := _seconds(headers.get("retry-after-ms"))) is not None:
        return ms / 1000
    text = headers.get("retry-after")
    seconds = _seconds(text)
    if seconds is not None or text is None:
        return seconds
    try:
        wait = parsedate_to_datetime(text) - datetime.now(UTC)
    except (ValueError, TypeError):  # TypeError: a date without a zone
        return None
    return max(0.0, wait.total_seconds())


def _seconds(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
