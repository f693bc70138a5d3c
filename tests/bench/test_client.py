"""Whatever a server does becomes a record, in time, and within bounds of memory."""

import asyncio
import socket
import struct
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from motet.bench.client import Asked, Client
from motet.bench.journal import Journal
from motet.bench.record import RequestRecord
from motet.bench.target import Endpoint, PromptForm, Target
from tests.bench.scripted_server import (
    Body,
    Script,
    ScriptedServer,
    begin,
    running,
    send,
    send_event,
    send_json,
    text,
    whole,
)

SECRET = "sk-do-not-tell"
MANY_BYTES = 64 << 20


def ask(
    script: Script, limit_s: float = 20.0, num_output_tokens: int = 3, **target: Any
) -> tuple[RequestRecord, dict[str, str], ScriptedServer]:
    """One request of this script: its record, and what there was to say."""
    with running(ScriptedServer(scripts={"m": script})) as server:
        record, messages = asyncio.run(
            _ask(Target(url=server.url, **target), limit_s, num_output_tokens)
        )
    return record, messages, server


async def _ask(
    target: Target, limit_s: float, num_output_tokens: int
) -> tuple[RequestRecord, dict[str, str]]:
    start_s = time.perf_counter()
    journal = Journal()
    async with Client(
        target, limit_s=limit_s, now_s=lambda: time.perf_counter() - start_s
    ) as client:
        asked = Asked(
            index=4,
            adapter="a",
            tenant="t",
            model="m",
            body=target.body("m", "some words", num_output_tokens),
            num_output_tokens=num_output_tokens,
        )
        await client.send(asked, 0.0, journal)
    [record] = journal.records
    assert journal.num_running == 0
    assert record.ended_s >= max(record.piece_times_s, default=0.0)
    return record, client.messages


def test_a_whole_answer() -> None:
    record, messages, server = ask(whole)
    assert record.is_finished
    assert messages == {}
    assert (record.index, record.adapter, record.tenant, record.model) == (4, "a", "t", "m")
    assert (record.num_prompt_tokens, record.num_cached_tokens, record.num_output_tokens) == (
        *(5, 2),
        3,
    )
    assert len(record.piece_times_s) == 3
    assert sorted(record.piece_times_s) == list(record.piece_times_s)
    assert record.ttft_s is not None
    assert record.ttft_s > 0
    [body] = server.bodies
    assert body == {
        "model": "m",
        "prompt": "some words",
        "max_tokens": 3,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert server.keys == [None]


def test_a_chat_of_any_length() -> None:
    async def shorter(writer: Any, body: Body) -> None:
        await whole(writer, {"max_tokens": 1})

    record, _, server = ask(shorter, endpoint=Endpoint.CHAT, exact_length=False)
    assert record.is_finished
    assert record.num_output_tokens == 1
    [body] = server.bodies
    assert "ignore_eos" not in body
    assert body["messages"] == [{"role": "user", "content": "some words"}]


def test_an_answer_of_another_length_is_an_error() -> None:
    async def shorter(writer: Any, body: Body) -> None:
        await whole(writer, {"max_tokens": 1})

    record, messages, _ = ask(shorter)
    assert record.error == "wrong_length"
    assert "ignore_eos" in messages["wrong_length"]
    assert record.num_output_tokens == 1


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        (["Retry-After: 7"], 7.0),
        (["Retry-After: 7", "retry-after-ms: 6500"], 6.5),
        (["Retry-After: later"], None),
        (["Retry-After: -3"], None),
        (["Retry-After: nan"], None),
        (["Retry-After: Mon, 01 Jan 2001 00:00:00 GMT"], 0.0),
        ([], None),
    ],
)
def test_a_refusal_says_when_to_come_again(headers: list[str], wait_s: float | None) -> None:
    async def refuse(writer: Any, body: Body) -> None:
        content = b'{"error": {"code": "overloaded", "message": "too many"}}'
        await send(writer, content, "503 Service Unavailable", *headers)

    record, messages, _ = ask(refuse)
    assert (record.status, record.error, record.retry_after_s) == (503, "overloaded", wait_s)
    assert messages == {"overloaded": "HTTP 503: too many"}
    assert record.piece_times_s == []


def test_a_date_to_come_again_at() -> None:
    async def refuse(writer: Any, body: Body) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
        await send(writer, b"", "503 Service Unavailable", f"Retry-After: {date}")

    record, _, _ = ask(refuse)
    assert record.retry_after_s is not None
    assert 50 < record.retry_after_s <= 100


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"<html>\x1b[2J no gateway</html>", "HTTP 502"),
        (b'{"error": "no gateway"}', "HTTP 502"),
        (b'{"error": {"type": "bad_gateway"}}', "bad_gateway"),
        (b"\xff" * 200_000, "HTTP 502"),
        (b"", "HTTP 502"),
    ],
)
def test_an_error_of_any_form(content: bytes, error: str) -> None:
    async def fail(writer: Any, body: Body) -> None:
        await send(writer, content, "502 Bad Gateway")

    record, messages, _ = ask(fail)
    assert (record.status, record.error) == (502, error)
    assert messages[error].isprintable()
    assert len(messages[error]) <= 400


async def reset(writer: Any, body: Body) -> None:
    await begin(writer)
    await send_event(writer, text("la "))
    await send_event(writer, text("la "))
    await asyncio.sleep(0.05)
    no_lingering = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
    writer.transport.abort()


async def close_early(writer: Any, body: Body) -> None:
    await begin(writer)
    await send_event(writer, text("la "))


async def garbage(writer: Any, body: Body) -> None:
    await begin(writer)
    writer.write(b"data: \x00\xff{]\n\n")


async def no_http(writer: Any, body: Body) -> None:
    writer.write(b"220 mail.example ESMTP\r\n\r\n")


async def hang_up(writer: Any, body: Body) -> None:
    writer.transport.abort()


async def engine_dies(writer: Any, body: Body) -> None:
    await begin(writer)
    await send_event(writer, text("la "))
    await send_event(writer, {"error": {"code": "engine_dead", "message": "the engine died"}})


async def endless_line(writer: Any, body: Body) -> None:
    await begin(writer)
    writer.write(b"data: ")
    for _ in range(MANY_BYTES >> 16):
        writer.write(b"a" * (1 << 16))
        await writer.drain()


async def endless_comments(writer: Any, body: Body) -> None:
    await begin(writer)
    for _ in range(MANY_BYTES >> 16):
        writer.write(b": la\n" * (1 << 14))
        await writer.drain()


@pytest.mark.parametrize(
    ("script", "errors", "num_pieces"),
    [
        (reset, {"ReadError"}, 2),
        (close_early, {"incomplete_stream"}, 1),
        (garbage, {"bad_stream"}, 0),
        (no_http, {"RemoteProtocolError"}, 0),
        (hang_up, {"ReadError", "RemoteProtocolError"}, 0),
        (engine_dies, {"engine_dead"}, 1),
        (endless_line, {"too_long"}, 0),
        (endless_comments, {"too_long"}, 0),
    ],
)
def test_what_breaks_off(script: Script, errors: set[str], num_pieces: int) -> None:
    record, messages, _ = ask(script)
    assert record.error in errors
    assert record.error in messages
    assert len(record.piece_times_s) == num_pieces
    assert record.num_output_tokens == 0


async def never_answer(writer: Any, body: Body) -> None:
    await asyncio.sleep(3600)


async def never_end(writer: Any, body: Body) -> None:
    await begin(writer)
    await send_event(writer, text("la "))
    await asyncio.sleep(3600)


@pytest.mark.parametrize(("script", "num_pieces"), [(never_answer, 0), (never_end, 1)])
def test_nobody_waits_for_ever(script: Script, num_pieces: int) -> None:
    record, messages, _ = ask(script, limit_s=0.3)
    assert record.error == "timeout"
    assert "0.3 s" in messages["timeout"]
    assert len(record.piece_times_s) == num_pieces


def test_what_comes_after_the_end_changes_nothing() -> None:
    async def go_on(writer: Any, body: Body) -> None:
        await whole(writer, body)
        writer.write(b"data: nonsense\n\n")
        await asyncio.sleep(3600)

    record, _, _ = ask(go_on)
    assert record.is_finished
    assert record.ended_s < 1.0


def test_a_server_that_is_not_there() -> None:
    record, messages = asyncio.run(_ask(Target(url="http://127.0.0.1:9"), 20.0, 3))
    assert record.error == "ConnectError"
    assert record.status is None
    assert "ConnectError" in messages


def test_a_tenants_requests_carry_its_key_and_no_key_is_repeated() -> None:
    async def refuse(writer: Any, body: Body) -> None:
        message = f"the key {SECRET} is wrong"
        await send_json(
            writer, {"error": {"code": f"{SECRET}_wrong", "message": message}}, "401 No"
        )

    record, messages, server = ask(refuse, api_key="other", tenant_keys={"t": SECRET})
    assert server.keys == [f"Bearer {SECRET}"]
    assert record.error == "…_wrong"
    assert messages == {"…_wrong": "HTTP 401: the key … is wrong"}


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ({"url": "127.0.0.1:8000"}, "no address"),
        ({"url": "ftp://127.0.0.1"}, "no address"),
        ({"url": "http://me:secret@127.0.0.1"}, "user name"),
        ({"url": "http://a", "endpoint": Endpoint.CHAT, "prompts": PromptForm.TOKENS}, "token ids"),
    ],
)
def test_targets_that_there_are_not(target: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        Target(**target)
    assert "secret" not in str(caught.value)


def test_a_targets_keys_are_not_shown() -> None:
    target = Target(url="http://a/v1/", api_key=SECRET, tenant_keys={"t": SECRET})
    assert SECRET not in repr(target)
    assert target.root == "http://a"
