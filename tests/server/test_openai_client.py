"""Both generation endpoints through OpenAI's own client, whole and streamed, sync and async."""

import asyncio

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.server.fake_engine import answer_token, digest_of
from tests.server.running_server import BASE, RunningServer, wait_until

PROMPT = "abcdefg"
USER = {"role": "user", "content": "hello"}
# What the tiny model's template makes of it.
CHAT_PROMPT = "\0user: hello\nassistant: "


@pytest.fixture(scope="module")
def client(server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def spoken(prompt: str, adapter: str | None, num_tokens: int) -> str:
    """What the fake engine says to this prompt; "\\0" stands for a token without text."""
    digest = None if adapter is None else digest_of(adapter.encode())
    tokens = [answer_token(list(prompt.encode()), digest, i) for i in range(num_tokens)]
    return bytes(tokens).decode().replace("\0", "")


@pytest.mark.parametrize(
    ("model", "adapter"),
    [(BASE, None), ("red", "red"), ("blue", "blue"), (f"{BASE}:red", "red")],
)
def test_a_completion_comes_from_the_named_adapter(
    client: OpenAI, model: str, adapter: str | None
) -> None:
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=10)
    assert answer.choices[0].text == spoken(PROMPT, adapter, 10)
    assert answer.choices[0].finish_reason == "length"
    assert answer.model == model
    assert answer.object == "text_completion"
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True, exclude={"prompt_tokens_details"}) == {
        "prompt_tokens": 7,
        "completion_tokens": 10,
        "total_tokens": 17,
    }


def test_a_streamed_completion_is_the_whole_one_in_pieces(client: OpenAI) -> None:
    chunks = list(client.completions.create(model="red", prompt=PROMPT, max_tokens=10, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == spoken(PROMPT, "red", 10)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 9 + ["length"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks)
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_usage_comes_in_one_more_chunk_if_asked_for(client: OpenAI) -> None:
    chunks = list(
        client.completions.create(
            model=BASE,
            prompt=PROMPT,
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert [len(chunk.choices) for chunk in chunks] == [1, 1, 1, 0]
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 3
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 10


def test_completions_default_to_16_tokens(client: OpenAI) -> None:
    answer = client.completions.create(model=BASE, prompt=PROMPT)
    assert answer.choices[0].text == spoken(PROMPT, None, 16)


def test_several_prompts_and_choices_are_indexed_prompt_by_prompt(client: OpenAI) -> None:
    prompts = ["abc", "uvwxyz"]
    answer = client.completions.create(model=BASE, prompt=prompts, n=2, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == ["abca", "abca", "uvwx", "uvwx"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (9, 16)


def test_several_streamed_choices_each_end_once(client: OpenAI) -> None:
    texts = [""] * 3
    ends = []
    for chunk in client.completions.create(
        model=BASE, prompt="abc", n=3, max_tokens=5, stream=True
    ):
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
        if choice.finish_reason is not None:
            ends.append(choice.index)
    assert texts == ["abcab"] * 3
    assert sorted(ends) == [0, 1, 2]


def test_token_ids_are_a_prompt(server: RunningServer, client: OpenAI) -> None:
    as_text = client.completions.create(model=BASE, prompt="abc", max_tokens=4)
    ids = server.events("AddRequest")[-1]["prompt_token_ids"]
    as_ids = client.completions.create(model=BASE, prompt=[ids], max_tokens=4)
    assert as_ids.choices[0].text == as_text.choices[0].text


def test_a_chat_answer_is_a_message(server: RunningServer, client: OpenAI) -> None:
    answer = client.chat.completions.create(model="blue", messages=[USER], max_tokens=12)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == spoken(CHAT_PROMPT, "blue", 12)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(CHAT_PROMPT)


def test_a_streamed_chat_has_role_then_text_then_end(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="blue",
            messages=[USER],
            max_completion_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *said, usage = chunks
    deltas = [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in said]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all(set(delta) == {"content"} for delta in deltas[1:-1])
    assert deltas[-1] == {}
    assert "".join(delta["content"] for delta in deltas[1:-1]) == spoken(CHAT_PROMPT, "blue", 12)
    reasons = [chunk.choices[0].finish_reason for chunk in said]
    assert reasons == [None] * (len(said) - 1) + ["length"]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 12


def test_chat_may_take_all_that_is_left_of_the_context(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=BASE, messages=[USER])
    assert answer.usage is not None
    assert answer.usage.total_tokens == 512
    assert answer.choices[0].finish_reason == "length"


def test_the_developer_speaks_as_the_system(server: RunningServer, client: OpenAI) -> None:
    prompts = []
    for role in ("system", "developer"):
        messages = [{"role": role, "content": "Be brief."}, USER]
        client.chat.completions.create(model=BASE, messages=messages, max_tokens=1)
        prompts.append(server.events("AddRequest")[-1]["prompt_token_ids"])
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_and_the_work(
    server: RunningServer, client: OpenAI, stream: bool
) -> None:
    """It spans three tokens, and the engine is told to go no further."""
    answer = client.completions.create(
        model=BASE, prompt=PROMPT, max_tokens=400, stop=["xyz", "cde"], stream=stream
    )
    choices = [each.choices[0] for each in answer] if stream else answer.choices
    assert "".join(choice.text for choice in choices) == "ab"
    assert choices[-1].finish_reason == "stop"
    request_id = server.events("AddRequest")[-1]["request_id"]
    wait_until(lambda: request_id in [each["request_id"] for each in server.events("AbortRequest")])


def test_a_stop_token_ends_the_text_before_it(server: RunningServer, client: OpenAI) -> None:
    client.completions.create(model=BASE, prompt="d", max_tokens=1)
    (stop_id,) = server.events("AddRequest")[-1]["prompt_token_ids"]
    answer = client.completions.create(
        model=BASE, prompt=PROMPT, max_tokens=50, extra_body={"stop_token_ids": [stop_id]}
    )
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("abc", "stop")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


def test_end_of_text_ends_the_answer_unless_ignored(client: OpenAI) -> None:
    def ask(**extra: object) -> tuple[str, str]:
        choice = client.completions.create(
            model=BASE, prompt="ab<end>cd", max_tokens=7, extra_body=extra
        ).choices[0]
        return choice.text, choice.finish_reason

    assert ask() == ("ab", "stop")
    # The token itself is special, and so has no text.
    assert ask(ignore_eos=True) == ("abcdab", "length")


def test_characters_of_several_tokens_come_whole(client: OpenAI) -> None:
    chunks = client.completions.create(model=BASE, prompt="€ü", max_tokens=8, stream=True)
    texts = [chunk.choices[0].text for chunk in chunks]
    assert texts[:-1] == ["€", "ü"]
    # Cut off within a character: what there is of it shows as one mark.
    assert texts[-1] == "€" or texts[-1] == "\N{REPLACEMENT CHARACTER}"


def test_sampling_parameters_reach_the_engine(server: RunningServer, client: OpenAI) -> None:
    client.completions.create(
        model=BASE,
        prompt="x",
        max_tokens=1,
        temperature=0.25,
        top_p=0.5,
        seed=2**63 - 1,
        n=2,
        presence_penalty=-1.5,
        frequency_penalty=1.5,
        extra_body={"top_k": 7, "min_p": 0.125, "repetition_penalty": 1.25, "ignore_eos": True},
    )
    first, second = (event["sampling"] for event in server.events("AddRequest")[-2:])
    assert first == {
        "max_tokens": 1,
        "temperature": 0.25,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.125,
        "seed": 2**63 - 1,
        "stop_token_ids": [],
        "repetition_penalty": 1.25,
        "presence_penalty": -1.5,
        "frequency_penalty": 1.5,
        "logit_bias": [],
        "min_tokens": 0,
        "num_logprobs": None,
        "num_prompt_logprobs": None,
        "grammar": None,
    }
    # Choices differ in their seeds, and seeds stay within what the engine takes.
    assert second == {**first, "seed": 0}


def test_requests_without_a_seed_get_fresh_ones(server: RunningServer, client: OpenAI) -> None:
    for _ in range(2):
        client.completions.create(model=BASE, prompt="x", max_tokens=1)
    first, second = (event["sampling"]["seed"] for event in server.events("AddRequest")[-2:])
    assert first != second
    assert server.events("AddRequest")[-1]["sampling"]["temperature"] == 1.0


def test_models_are_the_base_and_then_its_adapters(client: OpenAI) -> None:
    models = list(client.models.list())
    assert [model.id for model in models] == [BASE, "blue", "red"]
    assert [model.parent for model in models] == [None, BASE, BASE]  # type: ignore[attr-defined]
    for model in models:
        assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("green")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_many_at_once_with_the_async_client(server: RunningServer) -> None:
    """Whole and streamed, base and adapters, all in flight together."""

    async def whole(client: AsyncOpenAI, model: str) -> str:
        answer = await client.completions.create(model=model, prompt=PROMPT, max_tokens=40)
        return answer.choices[0].text

    async def streamed(client: AsyncOpenAI, model: str) -> str:
        chunks = await client.completions.create(
            model=model, prompt=PROMPT, max_tokens=40, stream=True
        )
        return "".join([chunk.choices[0].text async for chunk in chunks])

    async def run() -> list[str]:
        async with AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0
        ) as client:
            return await asyncio.gather(
                *(ask(client, model) for model in models for ask in (whole, streamed))
            )

    models = [BASE, "red", "blue"] * 8
    expected = [
        spoken(PROMPT, None if model == BASE else model, 40) for model in models for _ in range(2)
    ]
    assert asyncio.run(run()) == expected


def test_an_error_of_the_engine_is_one_of_the_client_library(client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model=BASE, prompt=[[7]], max_tokens=4)
    assert caught.value.code == "internal_error"
    assert caught.value.request_id
