"""Constraints to grammars, checked once.

Owns: the outcomes that are remembered, and how many requests may wait for how long.
Does not know: how a grammar is compiled (`grammar_worker.py`), nor which fields ask for one
(`structured.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from motet.server.errors import RETRY_AFTER_S, OverloadedError, bad_request
from motet.server.fair_turns import FairTurns
from motet.server.grammar_worker import CheckEndedError, CheckFailedError, GrammarWorker
from motet.server.protocol import GenerationParameters
from motet.server.refusals import RefusalReason
from motet.server.single_flight import SingleFlight
from motet.server.structured import Constraint, constraint_of

MAX_WAITING = 256  # of each tenant
MAX_WAIT_S = 10.0
_MAX_REMEMBERED = 256
_MAX_REASON_CHARS = 400


@dataclass(frozen=True, slots=True)
class _Accepted:
    grammar: str


@dataclass(frozen=True, slots=True)
class _Refused:
    reason: str


class GrammarService:
    """Compiles the constraints of requests, each once, one after another; tenants take turns."""

    def __init__(self, worker: GrammarWorker) -> None:
        self._worker = worker
        self._turns = FairTurns()
        self._running: SingleFlight[_Accepted | _Refused] = SingleFlight()
        self._outcomes: OrderedDict[str, _Accepted | _Refused] = OrderedDict()

    async def compile(self, constraint: Constraint, tenant: str | None = None) -> str:
        """Its grammar, in llguidance's form, which the engine can follow.

        Args:
            tenant: who asks for it, and waits behind nobody but their own; None without keys.

        Raises:
            MotetError: 400 `invalid_value` with the reason; 503 `overloaded` if too many others
                are compiled just now.
        """
        text = f"{constraint.kind}\n{constraint.text}"
        key = hashlib.sha256(text.encode()).hexdigest()
        outcome = self._outcomes.get(key)
        if outcome is None:
            work = f"{key} {tenant}"  # nobody waits in the line of another tenant
            outcome = await self._running.run(work, lambda: self._compile(key, constraint, tenant))
        else:
            self._outcomes.move_to_end(key)
        if isinstance(outcome, _Refused):
            param = constraint.param
            raise bad_request(f"'{param}' cannot be used: {outcome.reason}.", param)
        return outcome.grammar

    async def _compile(
        self, key: str, constraint: Constraint, tenant: str | None
    ) -> _Accepted | _Refused:
        async with self._its_turn(tenant):
            if (outcome := self._outcomes.get(key)) is not None:  # another tenant was first
                return outcome
            try:
                grammar = await self._worker.compile(constraint.kind, constraint.text)
            except CheckEndedError as error:
                return _Refused(str(error))  # and not remembered
            except CheckFailedError as error:
                return self._remember(key, _Refused(_shortened(str(error))))
            return self._remember(key, _Accepted(grammar))

    @contextlib.asynccontextmanager
    async def _its_turn(self, tenant: str | None) -> AsyncIterator[None]:
        """Wait for those before it.

        Raises OverloadedError if they are too many, or take too long.
        """
        if self._turns.num_waiting(tenant) >= MAX_WAITING:
            raise _overloaded()
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await self._turns.take(tenant)
        except TimeoutError:
            raise _overloaded() from None
        try:
            yield
        finally:
            self._turns.pass_on()

    def _remember(self, key: str, outcome: _Accepted | _Refused) -> _Accepted | _Refused:
        self._outcomes[key] = outcome
        if len(self._outcomes) > _MAX_REMEMBERED:
            self._outcomes.popitem(last=False)
        return outcome


@contextlib.asynccontextmanager
async def grammar_service(
    tokenizer_file: Path, vocab_size: int, eos_token_ids: Sequence[int]
) -> AsyncIterator[GrammarService]:
    """A service for one model; its process ends with the block."""
    worker = GrammarWorker(tokenizer_file, vocab_size, eos_token_ids)
    try:
        yield GrammarService(worker)
    finally:
        await worker.close()


async def grammar_of(
    params: GenerationParameters, grammars: GrammarService, tenant: str | None
) -> str | None:
    """The grammar that the answer to a tenant's request has to follow; None if it is free.

    Raises:
        MotetError: as `constraint_of` and `GrammarService.compile`.
    """
    constraint = constraint_of(params.response_format, params.structured_outputs)
    return None if constraint is None else await grammars.compile(constraint, tenant)


def _overloaded() -> OverloadedError:
    return OverloadedError(
        "Too many grammars are being compiled just now. Try again soon.",
        reason=RefusalReason.GRAMMARS,
        retry_after_s=RETRY_AFTER_S,
    )


def _shortened(reason: str) -> str:
    reason = reason.strip().rstrip(".")
    return reason if len(reason) <= _MAX_REASON_CHARS else f"{reason[: _MAX_REASON_CHARS - 3]}..."
