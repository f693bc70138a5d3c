"""How many questions are answered right: routed, with the right adapter named, and by the base.

Owns: who is asked what, greedily, and the shares of right answers.
Does not know: when an answer is right (`routing_questions.py`).
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from benchmarks.routing_questions import Message, Messages

MAX_AT_ONCE = 16


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers, 0 to 1, of single questions and of the questions of composites.

    Attributes:
        base: single questions asked of the base model.
        named: single questions, each asked of its own adapter.
        routed: single questions, by method.
        composite_named: composites, by the adapter that was named for the whole answer.
        composite_routed: composites, by method.
    """

    base: float
    named: float
    routed: Mapping[str, float]
    composite_named: Mapping[str, float]
    composite_routed: Mapping[str, float]


async def measure_accuracy(
    http: httpx2.AsyncClient, base: str, sets: Mapping[str, str], messages: Messages
) -> Accuracy:
    """Ask everybody.

    Args:
        http: of a server that has an adapter for each task, under its name.
        base: name of the base model.
        sets: names of the routed sets, by method.
    """

    async def share(models: Sequence[str], asked: Sequence[Message], what: str) -> float:
        replies = await _ask_all(http, models, asked)
        num_right = sum(m.num_right(reply) for m, reply in zip(asked, replies, strict=True))
        found = num_right / sum(len(message.segments) for message in asked)
        print(f"{what}: {found:.3f}", file=sys.stderr, flush=True)
        return found

    async def single(models: Sequence[str], what: str) -> float:
        return await share(models, messages.single, f"single questions, {what}")

    async def composite(model: str) -> float:
        models = [model] * len(messages.composite)
        return await share(models, messages.composite, f"composites, {model}")

    num_single = len(messages.single)
    own = [message.segments[0].task for message in messages.single]
    return Accuracy(
        base=await single([base] * num_single, base),
        named=await single(own, "the right adapter named"),
        routed={method: await single([name] * num_single, name) for method, name in sets.items()},
        composite_named={task: await composite(task) for task in messages.tasks},
        composite_routed={method: await composite(name) for method, name in sets.items()},
    )


async def _ask_all(
    http: httpx2.AsyncClient, models: Sequence[str], messages: Sequence[Message]
) -> list[str]:
    room = asyncio.Semaphore(MAX_AT_ONCE)

    async def ask(model: str, message: Message) -> str:
        async with room:
            body = chat_body(model, message.text, message.max_tokens)
            choice = await first_choice(http, body)
            return str(choice["message"]["content"])

    return list(await asyncio.gather(*map(ask, models, messages)))


def chat_body(model: str, text: str, max_tokens: int) -> dict[str, Any]:
    """A greedy chat of one message."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }


async def first_choice(http: httpx2.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    """The first choice of a chat completion. Raises RuntimeError with the server's refusal."""
    answer = await http.post("/v1/chat/completions", json=body)
    if answer.status_code != httpx2.codes.OK:
        raise RuntimeError(f"a chat with {body['model']} was answered with {answer.text}")
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice
