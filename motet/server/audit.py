"""One log line for each thing that an admin does: who, what, to what, and how it ended.

Owns: the form of these lines. A key is named by its id, never shown.
Does not know: what is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from starlette.requests import Request

from motet.core.errors import MotetError
from motet.server.context import context_of

_log = structlog.get_logger()


@contextmanager
def auditing(request: Request, action: str, **about: Any) -> Iterator[None]:
    """Log what is done within, however it ends.

    Args:
        action: what is done, as "adapter.load".
        about: to what: names and numbers, nothing secret.
    """
    outcome = "internal_error"
    try:
        yield
        outcome = "ok"
    except MotetError as error:
        outcome = error.code
        raise
    finally:
        context = context_of(request.scope)
        _log.info(
            "audit",
            action=action,
            outcome=outcome,
            key_id=context.principal.key_id,
            request_id=context.request_id,
            **about,
        )
