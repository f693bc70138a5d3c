"""The process that compiles grammars, from the API process's side.

Owns: that process: it is started when it is first needed, killed when it takes too long, and
started again.
Does not know: who waits, nor what was compiled before (`grammar_service.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path

import orjson
import structlog

TIME_LIMIT_S = 2.0
_START_TIMEOUT_S = 60.0
_MAX_LINE_BYTES = 4 << 20  # a grammar is at most its constraint, escaped

_log = structlog.get_logger()


class CheckFailedError(Exception):
    """The constraint cannot be used, for a reason that ends a sentence about it."""


class CheckEndedError(CheckFailedError):
    """The process was killed or died over it. That may have had another cause than the grammar."""


class GrammarWorker:
    """One process, which compiles one grammar at a time.

    Args:
        tokenizer_file: the model's `tokenizer.json`.
        vocab_size: width of its logits.
        eos_token_ids: its end-of-text tokens.
        time_limit_s: what one grammar may take.
    """

    def __init__(
        self,
        tokenizer_file: Path,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        *,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        self._command = [
            *(sys.executable, "-m", "motet.server.grammar_check"),
            *("--tokenizer", str(tokenizer_file), "--vocab-size", str(vocab_size)),
            *("--eos", *(str(each) for each in eos_token_ids)),
        ]
        self._time_limit_s = time_limit_s
        self._process: Process | None = None

    async def compile(self, kind: str, text: str) -> str:
        """The grammar of a constraint. Not to be called again before it has ended.

        Raises:
            CheckFailedError: it cannot be used, and why.
        """
        try:
            process = await self._started()
            answer = await _ask(process, {"kind": kind, "text": text}, self._time_limit_s)
        except TimeoutError:
            await self.close()
            raise CheckEndedError(
                f"it took longer than {self._time_limit_s:g} s to compile; make it simpler"
            ) from None
        except BaseException as error:  # its next line would be the answer to something else
            await self.close()
            if isinstance(error, ConnectionError | EOFError):
                raise CheckEndedError("it is too complex or too large to be compiled") from None
            raise
        if "error" in answer:
            raise CheckFailedError(answer["error"])
        return answer["grammar"]

    async def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _started(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, limit=_MAX_LINE_BYTES, start_new_session=True
        )
        try:
            first = await _read(self._process, _START_TIMEOUT_S)
        except (TimeoutError, EOFError):
            _log.error("the process that compiles grammars does not start")
            first = {"error": "the server cannot compile grammars; its log says why"}
        if "error" in first:
            raise CheckFailedError(first["error"])
        return self._process


async def _ask(process: Process, question: dict[str, str], timeout_s: float) -> dict[str, str]:
    assert process.stdin is not None  # opened as a pipe above
    async with asyncio.timeout(timeout_s):
        process.stdin.write(orjson.dumps(question) + b"\n")
        await process.stdin.drain()
        return await _read(process, timeout_s)


async def _read(process: Process, timeout_s: float) -> dict[str, str]:
    """The next line. Raises EOFError if the process has ended, TimeoutError if it is silent."""
    assert process.stdout is not None  # opened as a pipe above
    async with asyncio.timeout(timeout_s):
        line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    answer: dict[str, str] = orjson.loads(line)
    return answer
