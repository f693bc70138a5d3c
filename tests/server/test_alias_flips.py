"""The alias of a name flipped under load: every stream is of one version, and none fails."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from tests.server.conftest import StartServer
from tests.server.running_server import RunningServer
from tests.server.test_admin_adapters import ADAPTERS, adapter, create

NUM_STREAMS = 200
NUM_FLIPS = 50
BODY = {"model": "mine", "prompt": "abcdefgh", "max_tokens": 40, "stream": True}


async def stream(http: httpx2.AsyncClient) -> tuple[int, str, str]:
    """Status, version and text of one stream."""
    text = ""
    async with http.stream("POST", "/v1/completions", json=BODY) as response:
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            if data and data != "[DONE]":
                text += orjson.loads(data)["choices"][0]["text"]
        return response.status_code, response.headers["x-adapter-version"], text


async def flip(http: httpx2.AsyncClient) -> None:
    for index in range(NUM_FLIPS):
        body = {"weights": {str(1 + index % 2): 1}}
        answer = await http.put(f"{ADAPTERS}/mine/alias", json=body)
        assert answer.status_code == 200
        await asyncio.sleep(0.02)


async def streams_and_flips(server: RunningServer) -> list[tuple[int, str, str]]:
    limits = httpx2.Limits(max_connections=NUM_STREAMS + 10)
    async with httpx2.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:
        flipping = asyncio.create_task(flip(http))
        streams = []
        for _ in range(NUM_STREAMS):
            streams.append(asyncio.create_task(stream(http)))
            await asyncio.sleep(0.004)
        await flipping
        return list(await asyncio.gather(*streams))


@pytest.mark.slow
def test_every_stream_is_wholly_one_version(start_server: StartServer, adapters_dir: Path) -> None:
    engine = {"step_s": 0.005, "max_running": 256}
    with start_server(engine=engine, adapter_roots=(adapters_dir,)) as server:
        for uri in ("red", "blue"):
            create(server, "mine", uri)
        texts: dict[str, Any] = {}
        for version in ("1", "2"):
            body = {**BODY, "model": f"mine@{version}", "stream": False}
            answer = server.post("/v1/completions", body)
            texts[version] = answer.json()["choices"][0]["text"]
        assert texts["1"] != texts["2"]
        answers = asyncio.run(streams_and_flips(server))
        assert {status for status, _, _ in answers} == {200}
        assert {version for _, version, _ in answers} == {"1", "2"}
        assert [text for _, _, text in answers] == [texts[version] for _, version, _ in answers]
        assert [each["users"] for each in adapter(server, "mine")["versions"]] == [0, 0]
        assert len(server.events("LoadAdapter")) == 2
