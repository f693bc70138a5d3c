"""Loads that somebody may ask about later.

Owns: the tasks of such loads, and their outcomes until they are too many.
Does not know: how anything is loaded (`deployments.py`).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

import structlog

from motet.core.errors import MotetError

MAX_OPERATIONS = 1024  # of those that have ended; running ones are always known

_log = structlog.get_logger()


class OperationState(StrEnum):
    """Where an operation stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Operation:
    """One load.

    Attributes:
        adapter: the name that it is for.
        version: the number that it is for, or in the end the one that has the content.
        error: why it failed.
        created_at, ended_at: Unix time [s].
    """

    def __init__(self, adapter: str, version: int, work: Coroutine[Any, Any, int]) -> None:
        self.id = uuid.uuid4().hex
        self.adapter = adapter
        self.version = version
        self.state = OperationState.RUNNING
        self.error: MotetError | None = None
        self.created_at = int(time.time())
        self.ended_at: int | None = None
        self._task = asyncio.create_task(self._run(work))

    async def wait(self) -> None:
        """Wait for the end, and raise the MotetError that it failed with."""
        await asyncio.shield(self._task)
        if self.error is not None:
            raise self.error

    def cancel(self) -> None:
        """End it: the server ends."""
        self._task.cancel()

    async def _run(self, work: Coroutine[Any, Any, int]) -> None:
        try:
            self.version = await work
            self.state = OperationState.SUCCEEDED
            _log.info(
                "adapter ready", operation=self.id, adapter=self.adapter, version=self.version
            )
        except MotetError as error:
            self._fail(error)
        except Exception:
            _log.exception("unforeseen error in a load", operation=self.id, adapter=self.adapter)
            text = f"The server failed on this. Its log has the details under {self.id}."
            self._fail(MotetError(text, code="internal_error"))
        finally:
            self.ended_at = int(time.time())

    def _fail(self, error: MotetError) -> None:
        _log.warning(
            "adapter not loaded", operation=self.id, adapter=self.adapter, reason=error.message
        )
        self.error = error
        self.state = OperationState.FAILED


class Operations:
    """All running operations, and the last that ended."""

    def __init__(self) -> None:
        self._operations: dict[str, Operation] = {}

    def start(self, adapter: str, version: int, work: Coroutine[Any, Any, int]) -> Operation:
        """Run `work`, whose result is the number of the version that has the content."""
        operation = Operation(adapter, version, work)
        self._operations[operation.id] = operation
        self._forget_oldest()
        return operation

    def get(self, operation_id: str) -> Operation:
        """An operation. Raises MotetError (404)."""
        operation = self._operations.get(operation_id)
        if operation is None:
            raise MotetError(
                f"There is no operation {operation_id!r}. Operations end with the server; GET "
                "/admin/v1/adapters says what came of them.",
                code="operation_not_found",
            )
        return operation

    def close(self) -> None:
        """End all that run."""
        for operation in self._operations.values():
            operation.cancel()

    def _forget_oldest(self) -> None:
        ended = [each.id for each in self._operations.values() if each.ended_at is not None]
        for operation_id in ended[: max(0, len(ended) - MAX_OPERATIONS)]:
            del self._operations[operation_id]
