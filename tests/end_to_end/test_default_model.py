"""The whole path on the real default model with the example adapters: real processes, real HTTP."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
from openai import AsyncOpenAI
from safetensors.torch import load_file, save_file

from motet.models.default_model import DEFAULT_MODEL_NAME, default_model_dir
from tests.end_to_end.oracle import Oracle, example_prompts
from tests.end_to_end.serving import EXAMPLE_ADAPTERS, Server, serve, wait_until_idle

pytestmark = pytest.mark.slow

NUM_TOKENS = 64
ADAPTERS = {
    config.parent.name: config.parent
    for config in sorted(EXAMPLE_ADAPTERS.glob("*/adapter_config.json"))
}
PROMPTS = example_prompts(EXAMPLE_ADAPTERS)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(default_model_dir(), ADAPTERS)


@pytest.fixture(scope="module")
def adapter_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, adapter_root: Path) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    arguments = ["--adapter-dir", str(EXAMPLE_ADAPTERS), "--adapter-root", str(adapter_root)]
    with serve(log, *arguments, "--pool-memory", "1GiB") as running:
        yield running


def user_text(adapter: str | None) -> str:
    return PROMPTS[adapter][0]["prompt"] if adapter else "Name three colours of the rainbow."


async def complete(client: httpx2.AsyncClient, model: str, prompt_token_ids: list[int]) -> str:
    response = await client.post(
        "/v1/completions",
        json={
            "model": model,
            "prompt": prompt_token_ids,
            "max_tokens": NUM_TOKENS,
            "temperature": 0,
            "ignore_eos": True,
        },
    )
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] == NUM_TOKENS
    text: str = response.json()["choices"][0]["text"]
    return text


@pytest.fixture(scope="module")
def cases(oracle: Oracle) -> list[tuple[str, list[int], str]]:
    """(model name, prompt, the oracle's text) for the base and each adapter."""
    cases = []
    for adapter in (None, *ADAPTERS):
        prompt = oracle.chat_token_ids(user_text(adapter))
        cases.append(
            (adapter or DEFAULT_MODEL_NAME, prompt, oracle.greedy(adapter, prompt, NUM_TOKENS))
        )
    return cases


def test_each_alone_equals_transformers_and_peft(
    server: Server, cases: list[tuple[str, list[int], str]]
) -> None:
    async def run() -> list[str]:
        async with httpx2.AsyncClient(base_url=server.url, timeout=120) as client:
            return [await complete(client, model, prompt) for model, prompt, _ in cases]

    assert asyncio.run(run()) == [expected for _, _, expected in cases]


def test_all_mixed_in_one_batch_equal_transformers_and_peft(
    server: Server, cases: list[tuple[str, list[int], str]]
) -> None:
    async def run() -> list[str]:
        async with httpx2.AsyncClient(base_url=server.url, timeout=120) as client:
            return await asyncio.gather(
                *(complete(client, model, prompt) for model, prompt, _ in cases)
            )

    assert asyncio.run(run()) == [expected for _, _, expected in cases]
    wait_until_idle(server)


def test_adapters_answer_differently_from_the_base(
    cases: list[tuple[str, list[int], str]], oracle: Oracle
) -> None:
    for adapter, prompt, expected in cases[1:]:
        assert expected != oracle.greedy(None, prompt, NUM_TOKENS), adapter


def test_a_prompt_that_begins_alike_comes_from_the_cache_of_its_adapter(server: Server) -> None:
    system = list(range(1000, 1100))

    def cached_tokens(model: str, tail: int) -> int:
        body = {"model": model, "prompt": [*system, tail, tail], "max_tokens": 2}
        answer = client.post("/v1/completions", json=body).json()
        cached: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return cached

    with server.client() as client:
        base = client.get("/v1/models").json()["data"][0]["id"]
        assert [cached_tokens(base, tail) for tail in (7, 8)] == [0, 96]
        assert [cached_tokens("iso-dates", tail) for tail in (7, 8)] == [0, 96]
        assert cached_tokens(base, 7) == 96


def test_chat_with_the_openai_client_gives_the_expected_answers(server: Server) -> None:
    async def ask(client: AsyncOpenAI, adapter: str, prompt: str) -> str:
        answer = await client.chat.completions.create(
            model=adapter,
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=NUM_TOKENS,
        )
        return (answer.choices[0].message.content or "").strip()

    async def run() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return await asyncio.gather(
                *(ask(client, name, case["prompt"]) for name in ADAPTERS for case in PROMPTS[name])
            )

    answers = asyncio.run(run())
    expected = [case["answer"] for name in ADAPTERS for case in PROMPTS[name]]
    right = sum(a == e for a, e in zip(answers, expected, strict=True))
    assert right >= 0.8 * len(expected), list(zip(answers, expected, strict=True))


def test_json_follows_its_schema_whoever_speaks(server: Server) -> None:
    """Greedy and wild, streamed and whole, base and adapters, among free requests."""
    schema = {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green", "blue"]},
            "shades": {"type": "array", "items": {"type": "string", "maxLength": 9}, "maxItems": 2},
            "wavelength": {"type": "integer", "minimum": 380, "maximum": 750},
        },
        "required": ["colour", "shades", "wavelength"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": schema}}

    async def ask(
        client: AsyncOpenAI, model: str, temperature: float, extra: dict[str, Any]
    ) -> tuple[str, str | None]:
        pieces = []
        reason = None
        async for chunk in await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Describe a colour as JSON."}],
            temperature=temperature,
            seed=1,
            max_tokens=NUM_TOKENS,
            stream=True,
            extra_body=extra,
        ):
            pieces.append(chunk.choices[0].delta.content or "")
            reason = chunk.choices[0].finish_reason
        return "".join(pieces), reason

    async def run() -> list[list[tuple[str, str | None]]]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            cases = [(model, t) for model in (DEFAULT_MODEL_NAME, *ADAPTERS) for t in (0.0, 1.5)]
            return await asyncio.gather(
                *(
                    asyncio.gather(*(ask(client, *case, extra) for case in cases))
                    for extra in ({"response_format": form}, {})
                )
            )

    constrained, free = asyncio.run(run())
    for text, reason in constrained:
        assert reason == "stop"
        jsonschema.validate(json.loads(text), schema)
    assert len({text for text, _ in free}) > 1
    wait_until_idle(server)


def test_32_streams_over_all_adapters_leave_the_pool_whole(server: Server) -> None:
    models = [DEFAULT_MODEL_NAME, *ADAPTERS]

    async def stream(client: AsyncOpenAI, index: int) -> int:
        model = models[index % len(models)]
        chunks = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": f"{user_text(None)} ({index})"}],
            max_tokens=24,
            temperature=0.8,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        usage = None
        async for chunk in chunks:
            usage = chunk.usage or usage
        assert usage is not None
        return usage.completion_tokens

    async def run() -> list[int]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return await asyncio.gather(*(stream(client, i) for i in range(32)))

    assert asyncio.run(run()) == [24] * 32
    wait_until_idle(server)


def test_the_same_seed_gives_the_same_text_alone_and_in_a_crowd(
    server: Server, oracle: Oracle
) -> None:
    adapter = next(iter(ADAPTERS))
    body = {
        "model": adapter,
        "prompt": oracle.chat_token_ids(user_text(adapter)),
        "max_tokens": 24,
        "temperature": 1.0,
        "top_p": 0.95,
        "seed": 7,
        "ignore_eos": True,
    }

    async def run() -> tuple[str, list[str]]:
        async with httpx2.AsyncClient(base_url=server.url, timeout=120) as client:
            alone = (await client.post("/v1/completions", json=body)).json()
            crowd = [{**body, "model": name, "seed": i} for i, name in enumerate(ADAPTERS)]
            answers = await asyncio.gather(
                *(client.post("/v1/completions", json=each) for each in (*crowd, body, body))
            )
            return alone["choices"][0]["text"], [
                answer.json()["choices"][0]["text"] for answer in answers[-2:]
            ]

    alone, crowded = asyncio.run(run())
    assert crowded == [alone, alone]


def test_load_reload_and_unload_while_requests_run(
    server: Server,
    adapter_root: Path,
    oracle: Oracle,
    cases: list[tuple[str, list[int], str]],
) -> None:
    """The name changes its content while the first requests run; they end on the old weights."""
    first, second = list(ADAPTERS)[:2]
    prompt = cases[1][1]
    old_text = cases[1][2]
    new_text = oracle.greedy(second, prompt, NUM_TOKENS)
    assert old_text != new_text
    shutil.copytree(ADAPTERS[first], adapter_root / "old")
    shutil.copytree(ADAPTERS[second], adapter_root / "new")

    async def admin(client: httpx2.AsyncClient, action: str, **body: object) -> httpx2.Response:
        return await client.post(f"/v1/{action}_lora_adapter", json=body)

    async def run() -> None:
        async with httpx2.AsyncClient(base_url=server.url, timeout=120) as client:
            loaded = await admin(
                client, "load", lora_name="swapped", lora_path=str(adapter_root / "old")
            )
            assert loaded.status_code == 200, loaded.text
            running = [asyncio.create_task(complete(client, "swapped", prompt)) for _ in range(4)]
            while await running_requests(client) < 4:
                await asyncio.sleep(0.02)
            reloaded = await admin(
                client,
                "load",
                lora_name="swapped",
                lora_path=str(adapter_root / "new"),
                load_inplace=True,
            )
            assert reloaded.status_code == 200, reloaded.text
            assert not all(task.done() for task in running)
            assert await complete(client, "swapped", prompt) == new_text
            assert await asyncio.gather(*running) == [old_text] * 4
            removed = await admin(client, "unload", lora_name="swapped")
            assert removed.status_code == 200, removed.text
            gone = await client.post(
                "/v1/completions", json={"model": "swapped", "prompt": "x", "max_tokens": 1}
            )
            assert gone.status_code == 404
            assert gone.json()["error"]["code"] == "model_not_found"

    asyncio.run(run())
    wait_until_idle(server)


async def running_requests(client: httpx2.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    return next(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("motet_running_requests ")
    )


def test_a_client_that_hangs_up_leaves_nothing_behind(server: Server) -> None:
    """Mid-stream, and while its answer is awaited whole."""
    body = {
        "model": next(iter(ADAPTERS)),
        "messages": [{"role": "user", "content": "Tell a long story."}],
        "max_tokens": 2000,
        "ignore_eos": True,
    }
    with (
        httpx2.Client(base_url=server.url, timeout=120) as client,
        client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response,
    ):
        lines = response.iter_lines()
        for _ in range(6):
            next(lines)
        assert server.gauge("motet_running_requests") == 1
    with (
        httpx2.Client(base_url=server.url, timeout=0.5) as client,
        pytest.raises(httpx2.TimeoutException),
    ):
        client.post("/v1/chat/completions", json=body)
    wait_until_idle(server, limit_s=5)


def damage_truncated(directory: Path) -> None:
    weights = directory / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def damage_to_bin(directory: Path) -> None:
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")


def damage_nan(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[3] = float("nan")
    save_file(tensors, path)


def damage_other_base(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    save_file({name: tensor[:, :-8].contiguous() for name, tensor in load_file(path).items()}, path)


def damage_dora(directory: Path) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True}))


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (damage_truncated, "corrupt_adapter"),
        (damage_to_bin, "unsupported_format"),
        (damage_nan, "invalid_adapter"),
        (damage_other_base, "wrong_base_model"),
        (damage_dora, "unsupported_adapter"),
        (shutil.rmtree, "adapter_not_found"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_refused_reload_leaves_the_old_version_serving(
    server: Server,
    adapter_root: Path,
    cases: list[tuple[str, list[int], str]],
    damage: Callable[[Path], None],
    code: str,
) -> None:
    name, prompt, expected = cases[1]
    directory = adapter_root / f"damaged-{damage.__name__}"
    shutil.copytree(ADAPTERS[name], directory)
    damage(directory)

    async def run() -> None:
        async with httpx2.AsyncClient(base_url=server.url, timeout=120) as client:
            refused = await client.post(
                "/v1/load_lora_adapter",
                json={"lora_name": name, "lora_path": str(directory), "load_inplace": True},
            )
            assert refused.status_code in (400, 404), refused.text
            assert refused.json()["error"]["code"] == code
            assert await complete(client, name, prompt) == expected

    asyncio.run(run())


def test_a_request_beyond_the_pool_is_told_what_it_needs(tmp_path: Path) -> None:
    with serve(tmp_path / "log", "--pool-memory", "8MiB") as small, small.client() as client:
        body = {"model": DEFAULT_MODEL_NAME, "prompt": "x", "max_tokens": 1000}
        refused = client.post("/v1/completions", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "pool_too_small"
        assert "pages" in refused.json()["error"]["message"]
        body["max_tokens"] = 3
        assert client.post("/v1/completions", json=body).status_code == 200
