"""The engine's log probabilities are those of transformers and PEFT, of prompts and of outputs,
whatever the batch, the chunks, the prefix cache and the preemptions are."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from motet.core.config import EngineConfig
from motet.core.messages import AddRequest, StepOutput, TokenLogprobs, TokenOutput
from motet.core.sampling import SamplingParams
from motet.engine.runner import ModelRunner
from tests.adapters.make import AdapterSpec, write_lora
from tests.engine.test_generation import (
    Session,
    World,
    bytes_of_pages,
    shape_of,
    with_adapters,
)
from tests.models.tiny import VOCAB_SIZE, random_tokens, save_tiny_model

SPECS = {
    "one": AdapterSpec(rank=4, seed=1, scale=0.2),
    "two": AdapterSpec(rank=9, seed=2, scale=0.2),
}
ADAPTERS = (None, *SPECS)


@dataclass
class Answer:
    """All that was said of one request."""

    outputs: list[TokenOutput] = field(default_factory=list)

    @property
    def token_ids(self) -> list[int]:
        return [token for output in self.outputs for token in output.token_ids]

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        return [each for output in self.outputs for each in output.logprobs or ()]

    @property
    def prompt_logprobs(self) -> list[TokenLogprobs] | None:
        assert all(output.prompt_logprobs is None for output in self.outputs[1:])
        return self.outputs[0].prompt_logprobs


@dataclass
class Told:
    """A tiny model, its adapters, and what the oracle says of them."""

    world: World
    oracle: PeftModel

    @torch.inference_mode()
    def logprobs(self, adapter: str | None, token_ids: list[int]) -> Tensor:
        """float64 [len(token_ids), vocab_size]: of what follows each token."""
        batch = torch.tensor([token_ids])
        if adapter is None:
            with self.oracle.disable_adapter():
                logits = self.oracle(batch).logits
        else:
            self.oracle.set_adapter(adapter)
            logits = self.oracle(batch).logits
        return logits[0].double().log_softmax(dim=1)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    root = tmp_path_factory.mktemp("told")
    model = save_tiny_model("qwen3", root / "model")
    dirs = {name: write_lora(root / name, shape_of(model), spec) for name, spec in SPECS.items()}
    return Told(World(root / "model", dirs, []), with_adapters(model, dirs))


@pytest.fixture(
    params=["roomy", "small-chunks", "short-of-pages", "overlapped", "overlapped-short-of-pages"]
)
def session(
    request: pytest.FixtureRequest, told: Told, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Session]:
    monkeypatch.setattr(ModelRunner, "overlaps", "overlapped" in request.param)
    small = "short" in request.param
    session = Session(
        EngineConfig(
            model=str(told.world.model_dir),
            device="cpu",
            pool_memory_bytes=bytes_of_pages(told.world, 9) if small else 1 << 26,
            max_step_tokens=7 if "chunks" in request.param or small else 512,
        )
    )
    yield session
    while session.engine.step():
        pass
    stats = session.stats()
    assert stats.num_pages_free + stats.num_pages_cached == stats.num_pages_total
    session.engine.close()


def answers(session: Session, requests: list[AddRequest]) -> dict[str, Answer]:
    num_sent = len(session.sent)
    session.generate({request.request_id: request for request in requests})
    found = {request.request_id: Answer() for request in requests}
    for message in session.sent[num_sent:]:
        assert isinstance(message, StepOutput)
        for output in message.outputs:
            found[output.request_id].outputs.append(output)
    return found


def assert_told(each: TokenLogprobs, token: int, expected: Tensor, num_top: int) -> None:
    """Near equals may change places: ranks and the likeliest are compared by value."""
    assert each.token_id == token
    assert each.logprob == pytest.approx(float(expected[token]), abs=2e-4)
    assert (
        1 + int((expected > expected[token] + 1e-3).sum())
        <= each.rank
        <= 1 + int((expected > expected[token] - 1e-3).sum())
    )
    top = expected.topk(num_top).values.tolist()
    assert each.top_logprobs == pytest.approx(top, abs=2e-4)
    of_top = expected[each.top_token_ids].tolist()
    assert each.top_logprobs == pytest.approx(of_top, abs=2e-4)
    assert len({*each.top_token_ids}) == num_top
    assert all(math.isfinite(value) for value in (each.logprob, *each.top_logprobs))


def requests_of(
    digests: dict[str | None, str | None], prompts: list[list[int]]
) -> list[AddRequest]:
    """Those that ask for something in turns, greedy or not, beside plain ones."""
    requests = []
    for index, prompt in enumerate(prompts):
        sampling = SamplingParams(
            max_tokens=[5, 0, 9, 1][index % 4],
            temperature=[0.0, 0.9][index % 2],
            seed=index,
            num_logprobs=[None, 0, 3][index % 3],
            num_prompt_logprobs=[2, None, 0, 5, None][index % 5],
            presence_penalty=0.5 if index == 6 else 0.0,
            logit_bias=((7, 2.0),) if index == 8 else (),
        )
        adapter = ADAPTERS[index % len(ADAPTERS)]
        requests.append(AddRequest(str(index), prompt, sampling, digests[adapter]))
    return requests


def test_all_that_is_told_is_what_the_oracle_says(session: Session, told: Told) -> None:
    """Twice: the second time the prefix cache has all prompts, and half of them may read it."""
    digests = {name: session.load(path) for name, path in told.world.adapter_dirs.items()}
    generator = torch.Generator().manual_seed(3)
    prompts = [random_tokens(generator, n) for n in (1, 2, 7, 8, 15, 16, 17, 30, 33, 40, 20, 5)]
    requests = requests_of({None: None, **digests}, prompts)
    for _ in range(2):
        found = answers(session, requests)
        for index, request in enumerate(requests):
            answer, sampling = found[request.request_id], request.sampling
            prompt, tokens = request.prompt_token_ids, answer.token_ids
            expected = told.logprobs(ADAPTERS[index % len(ADAPTERS)], prompt + tokens)
            assert len(tokens) == sampling.max_tokens
            assert answer.outputs[-1].finish_reason == "length"
            if sampling.num_logprobs is None:
                assert all(output.logprobs is None for output in answer.outputs)
            else:
                assert len(answer.logprobs) == len(tokens)
                for position, each in enumerate(answer.logprobs):
                    row = expected[len(prompt) - 1 + position]
                    assert_told(each, tokens[position], row, sampling.num_logprobs)
            if sampling.num_prompt_logprobs is None:
                assert answer.prompt_logprobs is None
                continue
            assert answer.prompt_logprobs is not None
            assert len(answer.prompt_logprobs) == len(prompt) - 1
            for position, each in enumerate(answer.prompt_logprobs):
                row = expected[position]
                assert_told(each, prompt[position + 1], row, sampling.num_prompt_logprobs)
            assert all(output.num_cached_tokens == 0 for output in answer.outputs)


def test_greedy_tokens_are_the_likeliest(session: Session) -> None:
    generator = torch.Generator().manual_seed(4)
    sampling = SamplingParams(max_tokens=12, temperature=0, num_logprobs=1)
    request = AddRequest("a", random_tokens(generator, 9), sampling, None)
    answer = answers(session, [request])["a"]
    assert [each.rank for each in answer.logprobs] == [1] * 12
    assert [each.top_token_ids for each in answer.logprobs] == [[t] for t in answer.token_ids]


def test_others_draw_the_same_tokens_whoever_asks_beside_them(session: Session) -> None:
    generator = torch.Generator().manual_seed(5)
    prompts = [random_tokens(generator, 10 + index) for index in range(6)]
    tokens = []
    for num_told in (None, 4):
        requests = [
            AddRequest(
                str(index),
                prompt,
                SamplingParams(
                    max_tokens=10,
                    temperature=[0.0, 0.8][index % 2],
                    seed=index,
                    num_logprobs=num_told if index < 3 else None,
                    num_prompt_logprobs=num_told if index in (0, 1) else None,
                ),
                None,
            )
            for index, prompt in enumerate(prompts)
        ]
        tokens.append({name: a.token_ids for name, a in answers(session, requests).items()})
    assert tokens[0] == tokens[1]


def test_sequences_that_are_preempted_tell_all_once(told: Told, tmp_path: Path) -> None:
    session = Session(
        EngineConfig(
            model=str(told.world.model_dir),
            device="cpu",
            pool_memory_bytes=bytes_of_pages(told.world, 8),
            max_step_tokens=12,
        )
    )
    generator = torch.Generator().manual_seed(6)
    sampling = SamplingParams(max_tokens=30, temperature=0, num_logprobs=2, num_prompt_logprobs=2)
    requests = [
        AddRequest(str(index), random_tokens(generator, 20), sampling, None) for index in range(6)
    ]
    found = answers(session, requests)
    assert session.stats().num_preemptions > 0
    for request in requests:
        prompt, answer = request.prompt_token_ids, found[request.request_id]
        expected = told.logprobs(None, prompt + answer.token_ids)
        assert len(answer.logprobs) == 30
        for position, each in enumerate([*(answer.prompt_logprobs or ()), *answer.logprobs]):
            token = (prompt + answer.token_ids)[position + 1]
            assert_told(each, token, expected[position], 2)
    session.engine.close()


def test_min_tokens_and_bias_hold_in_overlapped_steps(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither needs to know a token in flight, and the log probabilities know nothing of them."""
    prompt = random_tokens(torch.Generator().manual_seed(7), 10)
    stops = tuple(range(0, VOCAB_SIZE, 2))
    sampling = SamplingParams(
        max_tokens=20,
        temperature=0,
        min_tokens=6,
        stop_token_ids=stops,
        logit_bias=((4, 100.0), (5, 90.0)),
        num_logprobs=0,
    )
    found = {}
    for overlaps in (False, True):
        monkeypatch.setattr(ModelRunner, "overlaps", overlaps)
        session = Session(
            EngineConfig(model=str(told.world.model_dir), device="cpu", pool_memory_bytes=1 << 26)
        )
        answer = answers(session, [AddRequest("a", prompt, sampling, None)])["a"]
        found[overlaps] = answer.token_ids
        assert answer.outputs[-1].finish_reason == "stop"
        expected = told.logprobs(None, prompt + answer.token_ids)
        for position, each in enumerate(answer.logprobs):
            assert_told(each, answer.token_ids[position], expected[9 + position], 0)
        session.engine.close()
    assert found[False] == found[True] == [5] * 6 + [4]
