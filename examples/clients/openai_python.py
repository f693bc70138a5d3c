"""Motet through OpenAI's Python client: adapters, streams, schemas, tools, errors."""

import asyncio
import json
import os
from typing import Literal

from openai import AsyncOpenAI, NotFoundError, OpenAI
from pydantic import BaseModel, Field

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
API_KEY = os.environ.get("OPENAI_API_KEY", "none")

QUESTIONS = {
    "iso-dates": "Write the date in this text as YYYY-MM-DD, nothing else:\n"
    "Payment is due the 9th of May 2031, not later.",
    "json-extract": "Extract name, age and city from this text as one line of JSON, nothing else:\n"
    "In Lisbon we met Ada Novak (41).",
    "number-words": "Write this number in digits, nothing else:\n"
    "four thousand two hundred and seven",
    "text-to-sql": "Write one SQL query for the table orders(id, customer, city, amount), "
    "nothing else:\nHow many orders over 250?",
}


class Person(BaseModel):
    """What the model is made to answer with."""

    name: str = Field(max_length=20)
    mood: Literal["happy", "sad"]


def show_models(client: OpenAI) -> str:
    """List what may be named; the first is the base model."""
    names = [model.id for model in client.models.list()]
    print("models:", ", ".join(names))
    return names[0]


def show_stream(client: OpenAI, model: str) -> None:
    """Print an answer as it comes, and what it cost."""
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Name three colours."}],
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        elif chunk.usage:
            print(f"\n({chunk.usage.total_tokens} tokens)")


def show_schema(client: OpenAI, model: str) -> None:
    """Have the answer follow a pydantic model."""
    answer = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": "Ada sang all day long."}],
        response_format=Person,
        max_tokens=64,
        temperature=0,
    )
    print("parsed:", repr(answer.choices[0].message.parsed))


def show_tool_call(client: OpenAI, model: str) -> None:
    """Have the model call a function; its arguments are valid against the schema."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is the weather in Lisbon?"}],
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "The weather in a city now.",
                    "parameters": {
                        "type": "object",
                        "properties": {"city": {"enum": ["Lisbon", "Oslo", "Quito"]}},
                        "required": ["city"],
                        "additionalProperties": False,
                    },
                },
            }
        ],
        tool_choice="required",
        max_tokens=64,
        temperature=0,
    )
    for call in answer.choices[0].message.tool_calls or []:
        assert call.type == "function"
        print("call:", call.function.name, json.loads(call.function.arguments))


def show_error(client: OpenAI) -> None:
    """A model that does not exist."""
    try:
        client.completions.create(model="nobody", prompt="x")
    except NotFoundError as error:
        print("error:", error.code, error.param, error.request_id)


async def ask_all_at_once() -> None:
    """One question to each adapter; they run in the same batch."""
    async with AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY) as client:
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": question}], temperature=0
                )
                for model, question in QUESTIONS.items()
            )
        )
    for model, answer in zip(QUESTIONS, answers, strict=True):
        print(f"{model}: {answer.choices[0].message.content}")


def main() -> None:
    """Show all of it."""
    with OpenAI(base_url=BASE_URL, api_key=API_KEY) as client:
        base = show_models(client)
        show_stream(client, base)
        show_schema(client, base)
        show_tool_call(client, base)
        show_error(client)
    asyncio.run(ask_all_at_once())


if __name__ == "__main__":
    main()
