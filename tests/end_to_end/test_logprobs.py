"""Log probabilities of the real default model, against transformers and PEFT."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import torch

from motet.models.default_model import DEFAULT_MODEL_NAME, default_model_dir
from tests.end_to_end.oracle import Oracle
from tests.end_to_end.serving import EXAMPLE_ADAPTERS, Server, serve, wait_until_idle

pytestmark = pytest.mark.slow

ADAPTERS = {
    config.parent.name: config.parent
    for config in sorted(EXAMPLE_ADAPTERS.glob("*/adapter_config.json"))
}
MODELS = [None, *list(ADAPTERS)[:2]]
TEXT = (
    "The Danube flows through Vienna, Bratislava, Budapest and Belgrade — straße für straße. 你好!"
)
TOLERANCE = 2e-3  # float32 summed in another order; natural logarithms


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(default_model_dir(), ADAPTERS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    # Steps shorter than the prompts, so that these come in several chunks.
    arguments = ["--adapter-dir", str(EXAMPLE_ADAPTERS), "--pool-memory", "1GiB"]
    with serve(log, *arguments, "--max-step-tokens", "16") as running:
        yield running


@pytest.fixture(scope="module")
def prompt(oracle: Oracle) -> list[int]:
    ids: list[int] = oracle.tokenizer(TEXT)["input_ids"]
    return ids


def ask(server: Server, adapter: str | None, **body: Any) -> dict[str, Any]:
    with server.client() as client:
        response = client.post(
            "/v1/completions", json={"model": adapter or DEFAULT_MODEL_NAME, **body}
        )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def of_tokens(logprobs: torch.Tensor, token_ids: list[int]) -> list[float]:
    """Of what stands at each place but the first, as `Oracle.logprobs` gives the rows."""
    return logprobs.gather(1, torch.tensor(token_ids[1:])[:, None])[:, 0].tolist()


@pytest.mark.parametrize("adapter", MODELS)
def test_a_prompt_is_scored_as_by_transformers(
    server: Server, oracle: Oracle, prompt: list[int], adapter: str | None
) -> None:
    expected = oracle.logprobs(adapter, prompt)
    for _ in range(2):  # the second time its prefix is cached
        body = {"prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 5}
        [choice] = ask(server, adapter, **body)["choices"]
        told = choice["logprobs"]
        assert choice["text"] == TEXT
        assert told["token_logprobs"][0] is None
        assert told["token_logprobs"][1:] == pytest.approx(
            of_tokens(expected, prompt), abs=TOLERANCE
        )
        for top, row in zip(told["top_logprobs"][1:], expected, strict=True):
            assert max(top.values()) == pytest.approx(row.max().item(), abs=TOLERANCE)


def test_the_likeliest_tokens_and_ranks_are_those_of_transformers(
    server: Server, oracle: Oracle, prompt: list[int]
) -> None:
    [choice] = ask(server, None, prompt=prompt, max_tokens=1, prompt_logprobs=3)["choices"]
    assert choice["prompt_logprobs"][0] is None
    rows = oracle.logprobs(None, prompt)
    for told, row, token in zip(choice["prompt_logprobs"][1:], rows, prompt[1:], strict=True):
        assert set(map(int, told)) >= set(row.topk(3).indices.tolist())
        # A rank that a rounding could change is one off.
        rank = int((row > row[token]).sum()) + 1
        assert abs(told[str(token)]["rank"] - rank) <= 1
        for token_id, each in told.items():
            assert each["logprob"] == pytest.approx(row[int(token_id)].item(), abs=TOLERANCE)


@pytest.mark.parametrize("adapter", MODELS)
def test_answers_are_told_by_the_models_own_probabilities(
    server: Server, oracle: Oracle, prompt: list[int], adapter: str | None
) -> None:
    """Whatever bias, penalty and temperature made of them before the draw."""
    shaping = {"temperature": 1.3, "seed": 5, "logit_bias": {"198": -50}, "presence_penalty": 1}
    body = {"prompt": prompt, "max_tokens": 12, "logprobs": 1, "return_token_ids": True}
    [choice] = ask(server, adapter, **body, **shaping)["choices"]
    ids = [*prompt, *choice["token_ids"]]
    expected = of_tokens(oracle.logprobs(adapter, ids), ids)[len(prompt) - 1 :]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=TOLERANCE)
    assert 198 not in choice["token_ids"]


def test_the_harness_tells_greedy_continuations_from_others(
    server: Server, oracle: Oracle, prompt: list[int]
) -> None:
    """As lm-evaluation-harness asks, a batch at a time, and as it reads the answers."""
    body = {"prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    [choice] = ask(server, None, **body, return_token_ids=True)["choices"]
    greedy = choice["token_ids"]
    other = [*greedy[:-1], (greedy[-1] + 1) % 1000]
    batch = [[*prompt, *greedy], [*prompt, *other]]
    answer = ask(
        server,
        None,
        prompt=batch,
        max_tokens=1,
        logprobs=1,
        echo=True,
        temperature=0,
        seed=1234,
    )
    for choice, ids, is_greedy in zip(answer["choices"], batch, (True, False), strict=True):
        told = choice["logprobs"]["token_logprobs"][len(prompt) : -1]
        tops = choice["logprobs"]["top_logprobs"][len(prompt) : -1]
        expected = of_tokens(oracle.logprobs(None, ids), ids)[len(prompt) - 1 :]
        assert told == pytest.approx(expected, abs=TOLERANCE)
        assert is_greedy == all(
            logprob == max(top.values()) for logprob, top in zip(told, tops, strict=True)
        )


def test_a_mixed_batch_tells_the_same_as_each_alone(server: Server, prompt: list[int]) -> None:
    bodies: list[dict[str, Any]] = [
        {"model": adapter or DEFAULT_MODEL_NAME, "prompt": prompt, "temperature": 0, **extra}
        for adapter in MODELS
        for extra in (
            {"max_tokens": 6, "logprobs": 2, "echo": True},
            {"max_tokens": 6},
            {"max_tokens": 0, "prompt_logprobs": 1},
        )
    ]

    async def together() -> list[dict[str, Any]]:
        async with httpx2.AsyncClient(base_url=server.url, timeout=120) as client:
            answers = await asyncio.gather(
                *(client.post("/v1/completions", json=body) for body in bodies)
            )
            return [answer.json() for answer in answers]

    for body, answer in zip(bodies, asyncio.run(together()), strict=True):
        with server.client() as client:
            alone = client.post("/v1/completions", json=body).json()
        [choice], [expected] = answer["choices"], alone["choices"]
        assert choice["text"] == expected["text"]
        if choice["logprobs"] is not None:
            assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(
                expected["logprobs"]["token_logprobs"][1:], abs=TOLERANCE
            )
    wait_until_idle(server)


def test_the_best_is_the_likeliest_of_its_seeds(server: Server, prompt: list[int]) -> None:
    body = {"prompt": prompt, "max_tokens": 8, "seed": 11, "logprobs": 0, "ignore_eos": True}
    every = ask(server, None, **body, n=4)["choices"]
    means = [sum(each["logprobs"]["token_logprobs"]) / 8 for each in every]
    [best] = ask(server, None, **body, best_of=4)["choices"]
    assert best["text"] == every[means.index(max(means))]["text"]


def test_a_bias_decides_and_an_end_waits(server: Server, oracle: Oracle) -> None:
    word = oracle.tokenizer(" voice")["input_ids"][0]
    body = {"prompt": "One", "temperature": 0, "return_token_ids": True}
    [choice] = ask(server, None, **body, max_tokens=3, logit_bias={str(word): 100})["choices"]
    assert choice["token_ids"] == [word] * 3
    end = oracle.tokenizer.eos_token_id
    wanted = {**body, "logit_bias": {str(end): 100}, "max_tokens": 6}
    [choice] = ask(server, None, **wanted)["choices"]
    assert (choice["text"], choice["token_ids"]) == ("", [end])
    [choice] = ask(server, None, **wanted, min_tokens=4)["choices"]
    assert len(choice["token_ids"]) == 5
    assert choice["token_ids"][-1] == end
    assert choice["finish_reason"] == "stop"
