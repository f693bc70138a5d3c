"""Compositions on the real default model: the sum that PEFT computes with all parts active."""

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
FIRST, SECOND, THIRD = list(ADAPTERS)[:3]
TEXT = "The meeting of the 3rd of May 2021 took two hours and a half, and cost 1,250 euros in all."
TOLERANCE = 2e-3  # float32 summed in another order; natural logarithms
WEIGHTS = [
    {FIRST: 1.0, SECOND: 1.0},
    {FIRST: 0.7, SECOND: 0.3},
    {FIRST: 0.5, SECOND: -0.25, THIRD: 1.5},
    {THIRD: 0.5},
]


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(default_model_dir(), ADAPTERS)


@pytest.fixture(scope="module")
def prompt(oracle: Oracle) -> list[int]:
    ids: list[int] = oracle.tokenizer(TEXT)["input_ids"]
    return ids


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "server.log"
    with serve(log, "--adapter-dir", str(EXAMPLE_ADAPTERS), "--pool-memory", "1GiB") as running:
        yield running
        wait_until_idle(running)


def score(server: Server, prompt: list[int], **named: Any) -> list[float]:
    """Log probabilities of the prompt's tokens from the second on, and of 8 greedy ones."""
    body = {"model": DEFAULT_MODEL_NAME, "prompt": prompt, "max_tokens": 8, **named}
    more = {"temperature": 0, "echo": True, "logprobs": 1, "ignore_eos": True}
    response = httpx2.post(f"{server.url}/v1/completions", json={**body, **more}, timeout=120)
    assert response.status_code == 200, response.text
    told: list[float] = response.json()["choices"][0]["logprobs"]["token_logprobs"][1:]
    return told


def of_tokens(logprobs: torch.Tensor, token_ids: list[int]) -> list[float]:
    values: list[float] = logprobs.gather(1, torch.tensor(token_ids[1:])[:, None])[:, 0].tolist()
    return values


def test_the_oracle_adds_up(oracle: Oracle, prompt: list[int]) -> None:
    alone = oracle.logprobs(FIRST, prompt)
    torch.testing.assert_close(oracle.composed_logprobs({FIRST: 1.0}, prompt), alone)
    both = oracle.composed_logprobs({FIRST: 1.0, SECOND: 1.0}, prompt)
    assert (both - alone).abs().max() > 10 * TOLERANCE
    torch.testing.assert_close(oracle.logprobs(FIRST, prompt), alone)


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda weights: "+".join(weights))
def test_a_composition_is_the_sum_of_its_parts(
    server: Server, oracle: Oracle, prompt: list[int], weights: dict[str, float]
) -> None:
    expected = of_tokens(oracle.composed_logprobs(weights, prompt), prompt)
    for _ in range(2):  # the second time its prefix is cached
        told = score(server, prompt, lora=weights)
        assert told[: len(expected)] == pytest.approx(expected, abs=TOLERANCE)
    if set(weights.values()) == {1.0}:
        spelt = score(server, prompt, model="+".join(weights))
        assert spelt == pytest.approx(told, abs=TOLERANCE)
