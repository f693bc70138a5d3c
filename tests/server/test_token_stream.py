"""The queue between the engine's messages and a request's reader."""

import asyncio

import pytest

from motet.core.errors import MotetError
from motet.core.messages import TokenOutput
from motet.server.token_stream import MAX_UNREAD_OUTPUTS, TokenStream


class Forgotten:
    """Notes which sequences were forgotten, and whether they had finished."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []

    def __call__(self, request_id: str, *, is_finished: bool) -> None:
        self.calls.append((request_id, is_finished))


def test_a_reader_that_lags_too_far_behind_is_given_up() -> None:
    async def run() -> None:
        forgotten = Forgotten()
        stream = TokenStream(["a", "b"], forgotten)
        for index in range(MAX_UNREAD_OUTPUTS):
            stream.push(TokenOutput("ab"[index % 2], [index]))
        assert forgotten.calls == []
        stream.push(TokenOutput("a", [1]))
        assert sorted(forgotten.calls) == [("a", False), ("b", False)]
        for index in range(MAX_UNREAD_OUTPUTS):
            output = await stream.next()
            assert output is not None
            assert output.token_ids == [index]
        with pytest.raises(MotetError) as caught:
            await stream.next()
        assert caught.value.code == "client_too_slow"
        stream.close()
        assert len(forgotten.calls) == 2

    asyncio.run(run())


def test_one_that_keeps_up_reads_without_end() -> None:
    async def run() -> None:
        stream = TokenStream(["a"], Forgotten())
        for index in range(3 * MAX_UNREAD_OUTPUTS):
            stream.push(TokenOutput("a", [index]))
            await stream.next()
        stream.push(TokenOutput("a", [0], "stop"))
        last = await stream.next()
        assert last is not None
        assert last.finish_reason == "stop"
        assert await stream.next() is None

    asyncio.run(run())
