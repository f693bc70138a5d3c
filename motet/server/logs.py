"""How log lines look: for a person at a terminal, JSON for a machine elsewhere.

Owns: the logging configuration of the API process. No prompt and no key is ever logged, and no
value ends its line: what looks like another line is part of the value.

An exception is logged as where it was raised, without its message: messages quote what they could
not handle, and that may be a prompt.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

_log = structlog.get_logger()


def configure_logging() -> None:
    """Structured lines on standard error, and those of the libraries' loggers among them."""
    is_terminal = sys.stderr.isatty()
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not is_terminal),
    ]
    rendering = rendering_processors(is_terminal)
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def log_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception handler for the event loop: asyncio's own quotes the exception's message."""
    _log.error(
        "error in the background", what=context["message"], exc_info=context.get("exception")
    )


def rendering_processors(is_terminal: bool) -> list[Processor]:
    """What makes a line of an event."""
    exceptions = structlog.processors.ExceptionRenderer(where_raised)
    if is_terminal:
        return [exceptions, _escape_control_characters, structlog.dev.ConsoleRenderer()]
    return [exceptions, structlog.processors.JSONRenderer()]


def where_raised(exc_info: ExcInfo) -> str:
    """The traceback of an exception and of those it came from, with types but no messages."""
    parts = []
    for error in _oldest_first(exc_info[1]):
        parts += traceback.format_tb(error.__traceback__)
        parts.append(f"{type(error).__module__}.{type(error).__qualname__}\n")
    return "".join(parts).rstrip()


def _oldest_first(error: BaseException) -> Iterator[BaseException]:
    origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if origin is not None:
        yield from _oldest_first(origin)
    yield error


def _escape_control_characters(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A terminal obeys them; JSON escapes them by itself."""
    return {
        name: _escaped(value) if isinstance(value, str) and name != "exception" else value
        for name, value in event.items()
    }


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
