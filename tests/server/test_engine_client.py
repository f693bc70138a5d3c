"""The engine client alone, over a fake engine in a real process."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from motet.core.config import EngineConfig
from motet.core.errors import MotetError
from motet.core.messages import AddRequest
from motet.core.sampling import SamplingParams
from motet.server.engine_client import EngineClient
from motet.server.token_stream import TokenStream
from tests.server.fake_engine import digest_of
from tests.server.running_server import fake_engine_command


def request(request_id: str, max_tokens: int = 4, digest: str | None = None) -> AddRequest:
    return AddRequest(request_id, [1, 2, 3], SamplingParams(max_tokens=max_tokens), digest)


async def read_all(stream: TokenStream) -> None:
    while await stream.next():
        pass


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


class Engine:
    """Runs a scenario against a started client, and knows what the engine received."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def received(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.received()]

    def run(self, scenario: Callable[[EngineClient], Awaitable[None]], **options: object) -> None:
        async def work() -> None:
            command = fake_engine_command(self._log, **options)
            client = EngineClient(EngineConfig(model="m", max_running=5), command)
            await client.start()
            try:
                await scenario(client)
            finally:
                await client.close()

        asyncio.run(work())


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "engine.jsonl")


def test_the_engine_is_given_its_options_and_told_to_end(engine: Engine) -> None:
    async def scenario(client: EngineClient) -> None:
        assert client.info.num_pages == 1000

    engine.run(scenario)
    assert engine.kinds() == ["Started", "Shutdown"]
    config = engine.received()[0]["config"]
    assert (config["model"], config["max_running"]) == ("m", 5)


def test_a_stream_ends_after_the_last_of_its_sequences(engine: Engine) -> None:
    async def scenario(client: EngineClient) -> None:
        stream = client.submit([request("a", 2), request("b", 4)])
        tokens: dict[str, list[int]] = {"a": [], "b": []}
        while output := await stream.next():
            tokens[output.request_id] += output.token_ids
        assert tokens == {"a": [1, 2], "b": [1, 2, 3, 1]}
        assert await stream.next() is None
        stream.close()
        assert client.num_in_flight == 0

    engine.run(scenario)
    assert "AbortRequest" not in engine.kinds()


def test_one_failing_sequence_fails_the_stream_and_the_rest_is_aborted(engine: Engine) -> None:
    async def scenario(client: EngineClient) -> None:
        failing = AddRequest("bad", [7], SamplingParams(max_tokens=4), None)
        stream = client.submit([request("good", 10_000), failing])
        with pytest.raises(MotetError, match="told to fail"):
            await read_all(stream)
        stream.close()
        await until(lambda: "AbortRequest" in engine.kinds())
        assert client.num_in_flight == 0

    engine.run(scenario)
    aborted = [each["request_id"] for each in engine.received() if each["kind"] == "AbortRequest"]
    assert aborted == ["good"]


def test_messages_keep_their_order(engine: Engine, adapters_dir: Path) -> None:
    """A release right after a request must not overtake it."""

    async def scenario(client: EngineClient) -> None:
        reference = await client.load_adapter(adapters_dir / "red")
        digest = reference.info.digest
        streams = []
        for index in range(200):
            streams.append(client.submit([request(str(index), digest=digest)]))
        client.release_adapter(reference)
        for stream in streams:
            await read_all(stream)

    engine.run(scenario)
    kinds = engine.kinds()
    assert kinds.index("ReleaseAdapter") > max(
        index for index, kind in enumerate(kinds) if kind == "AddRequest"
    )
    assert kinds.count("AddRequest") == 200


def test_an_adapter_that_nobody_waits_for_any_more_is_given_back(
    engine: Engine, adapters_dir: Path
) -> None:
    async def scenario(client: EngineClient) -> None:
        load = asyncio.create_task(client.load_adapter(adapters_dir / "red"))
        await until(lambda: "LoadAdapter" in engine.kinds())
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        await until(lambda: "ReleaseAdapter" in engine.kinds())

    engine.run(scenario, load_s=0.2)
    released = [each for each in engine.received() if each["kind"] == "ReleaseAdapter"]
    assert [(each["digest"], each["path"]) for each in released] == [
        (digest_of(b"red"), str(adapters_dir / "red"))
    ]


def test_a_pin_that_nobody_waits_for_any_more_is_taken_back(
    engine: Engine, adapters_dir: Path
) -> None:
    async def scenario(client: EngineClient) -> None:
        reference = await client.load_adapter(adapters_dir / "red")
        pin = asyncio.create_task(client.pin_adapter(reference))
        await until(lambda: "PinAdapter" in engine.kinds())
        pin.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pin
        await until(lambda: "UnpinAdapter" in engine.kinds())

    engine.run(scenario, pin_s=0.2)


def test_what_a_dead_engine_held_is_never_given_back_to_the_next(
    engine: Engine, adapters_dir: Path
) -> None:
    async def scenario(client: EngineClient) -> None:
        old = await client.load_adapter(adapters_dir / "red")
        assert client.holds(old)
        os.kill(engine.received()[0]["pid"], signal.SIGKILL)
        await until(lambda: client.num_starts == 2 and client.unready_reason is None)
        assert not client.holds(old)
        new = await client.load_adapter(adapters_dir / "red")
        for reference in (old, new):
            client.unpin_adapter(reference)
            client.release_adapter(reference)
        await client.stats()

    engine.run(scenario)
    assert engine.kinds().count("ReleaseAdapter") == 1
    assert engine.kinds().count("UnpinAdapter") == 1


def test_a_closed_client_fails_what_is_in_flight_and_takes_nothing_more(engine: Engine) -> None:
    async def scenario(client: EngineClient) -> None:
        stream = client.submit([request("a", 10_000)])
        await stream.next()
        await client.close()
        with pytest.raises(MotetError, match="shutting down") as failure:
            await read_all(stream)
        assert failure.value.code == "shutting_down"  # no death of the engine's
        stream.close()
        with pytest.raises(MotetError) as caught:
            client.submit([request("b")])
        assert caught.value.code == "engine_restarting"

    engine.run(scenario)


def test_an_engine_that_cannot_come_back_is_tried_again_and_says_why(
    engine: Engine, tmp_path: Path
) -> None:
    trouble = tmp_path / "trouble"

    async def scenario(client: EngineClient) -> None:
        trouble.write_text("out of memory")
        os.kill(engine.received()[0]["pid"], signal.SIGKILL)
        await until(lambda: "out of memory" in (client.unready_reason or ""))
        trouble.unlink()
        await until(lambda: client.unready_reason is None)
        stream = client.submit([request("a", 1)])
        output = await stream.next()
        assert output is not None
        assert output.finish_reason == "length"

    engine.run(scenario, start_error_file=trouble)
    assert engine.kinds().count("Started") >= 3
